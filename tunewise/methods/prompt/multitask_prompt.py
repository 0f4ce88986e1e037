"""Multitask prompt tuning: P_k = P ∘ (U_k V_k), one prompt shared by all tasks times low-rank factors of task k.

Wang et al. 2023, arXiv:2303.02861, eq. 1 (rank 1 there). First P and the factors of several source tasks are trained
together, then both for one target task from where they ended. Virtual token j of task k has the id
`vocab_size + k · virtual_tokens + j`, so a batch may mix tasks: each row begins with its own task's ids.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import AliasChoices, Field, model_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.methods.base import Delta, PeftNames, Start
from tunewise.methods.prompt.prompt_tuning import TRAINING_ONLY, PromptTuning, SoftPrompt
from tunewise.models.anatomy import Anatomy

PEFT_TENSORS = {"prompt": "prompt_embeddings", "cols": "prefix_task_cols", "rows_by_task": "prefix_task_rows"}


class TaskPrompts(SoftPrompt):
    """prompt (virtual_tokens, d), cols (tasks, virtual_tokens, rank), rows_by_task (tasks, rank, d).

    The factors multiply to one at birth, where every task's prompt is the shared one.
    """

    def __init__(self, virtual_tokens: int, vocab_size: int, d: int, tasks: int, rank: int) -> None:
        super().__init__(virtual_tokens, vocab_size, d)
        self.cols = nn.Parameter(torch.ones(tasks, virtual_tokens, rank))
        rows = torch.full((tasks, rank, d), 1 / rank)
        if rank > 1:  # equal ones would stay equal; what is added here sums to nothing
            noise = 0.02 * torch.randn(tasks, rank, d)
            rows += noise - noise.mean(dim=1, keepdim=True)
        self.rows_by_task = nn.Parameter(rows)

    def rows(self) -> Tensor:
        return (self.prompt * (self.cols @ self.rows_by_task)).flatten(0, 1)


class MultitaskPrompt(PromptTuning):
    """A soft prompt for each of several tasks, made of a shared one and few numbers of the task's own."""

    name = "multitask_prompt"
    trains = "a shared soft prompt, and factors of it for each task"
    paper = "arXiv:2303.02861"
    equation = "[P ∘ (U_k V_k); X]"
    learning_rate = 3e-1
    learning_rate_source = "as prompt_tuning: Lester et al. 2021, arXiv:2104.08691, section 3 (0.3)"
    start = (
        "the shared prompt as prompt_tuning's; the factors one in product: no published value, and unlike peft, whose "
        "factors, normal with deviation 0.02, multiply to almost nothing"
    )
    peft = PeftNames(
        "MULTITASK_PROMPT_TUNING",
        fields={"virtual_tokens": "num_virtual_tokens", "tasks": "num_tasks", "rank": "num_ranks"},
        tensors=PEFT_TENSORS,
        training_only=TRAINING_ONLY | {"prompt_tuning_init_task"},
        bare=True,
    )

    virtual_tokens: int = Field(100, ge=1, validation_alias=AliasChoices("virtual_tokens", "num_virtual_tokens"))
    """Length of the soft prompt. Default: Lester et al. 2021, section 3."""
    tasks: int = Field(1, ge=1, validation_alias=AliasChoices("tasks", "num_tasks"))
    """How many tasks have factors of their own. Default: peft's."""
    rank: int = Field(1, ge=1, validation_alias=AliasChoices("rank", "num_ranks"))
    """Rank of a task's factors. Default: Wang et al. 2023, eq. 1; peft's."""
    task: int = Field(0, ge=0)
    """The task whose prompt stands before a sequence that does not say."""
    source: str = ""
    """An adapter folder from several tasks to start from: its shared prompt, and its factors' mean over the tasks."""

    @model_validator(mode="after")
    def _one_of_the_tasks(self) -> "MultitaskPrompt":
        if self.task >= self.tasks:
            raise ValueError(f"task={self.task} is none of the {self.tasks} tasks, which count from 0")
        return self

    def prefix_ids(self, anatomy: Anatomy) -> tuple[int, ...]:
        return self.ids_of(self.task, anatomy)

    def ids_of(self, task: int, anatomy: Anatomy) -> tuple[int, ...]:
        """The virtual tokens that a sequence of this task begins with."""
        first = anatomy.vocab_size + task * self.virtual_tokens
        return tuple(range(first, first + self.virtual_tokens))

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        site = anatomy.embedding
        return {site.name: TaskPrompts(self.virtual_tokens, anatomy.vocab_size, site.d_out, self.tasks, self.rank)}

    @torch.no_grad()
    def warm_start(self, start: Start, deltas: Mapping[str, Delta]) -> None:
        (delta,) = deltas.values()
        if self.source:
            found = _read(Path(self.source))
            for name, tensor in found.items():
                own = delta.get_parameter(name)
                value = tensor if name == "prompt" else tensor.mean(0, keepdim=True).expand_as(own)
                if value.shape != own.shape:
                    raise UserError(
                        f"method.source={self.source} has {name} of shape {tuple(tensor.shape)}, "
                        f"this method {tuple(own.shape)}",
                        hint="give virtual_tokens and rank as they were in the source training",
                    )
                own.copy_(value)
        else:
            super().warm_start(start, deltas)


def _read(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter folder of this method, ours or peft's; both name them alike."""
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise UserError(f"method.source={folder} is no adapter folder", hint="give the adapter/ folder of a run")
    stored = load_file(path)
    if set(stored) != set(PEFT_TENSORS.values()):
        raise UserError(f"method.source={folder} holds no multitask prompt", hint="train one with method.tasks=N")
    return {ours: stored[theirs] for ours, theirs in PEFT_TENSORS.items()}
