"""Pre-train `tiny` from nothing: `python -m tunewise.models.tiny.pretrain [--out FOLDER] [--checkpoints FOLDER]`.

Writes the tokenizer, trains on documents that the world writes as they are needed, and leaves weights, tokenizer and
`pretraining.json` (loss curve, seeds, versions, tokens, seconds, machine) in the folder. A run that was stopped goes
on from its last checkpoint.
"""

import argparse
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import tokenizers
import torch
import torch.distributed as distributed
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunewise.files import read_json, write_json, writing
from tunewise.models.tiny import FOLDER
from tunewise.models.tiny.attention import NAME as BLOCKED_ATTENTION
from tunewise.models.tiny.muon import Muon
from tunewise.models.tiny.world import STAGES, documents

END, PAD = "<|end|>", "<|pad|>"
LOGGED_STEPS = 20  # steps whose mean loss makes one point of the curve
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything that decides the outcome of the pre-training."""

    seed: int = 2026
    tokenizer_seed: int = 1
    tokenizer_documents: int = 12_000
    held_out_seed: int = 3
    vocabulary: int = 3_072
    hidden: int = 224
    intermediate: int = 576
    layers: int = 5
    heads: int = 4
    key_value_heads: int = 2
    context: int = 512
    step_tokens: int = 4_096
    # From which step on, the length of a row. Heads that look back form sooner where there is less to look at.
    contexts: tuple[tuple[int, int], ...] = (
        (0, 128), (620, 256), (1_600, 512), (1_698, 256), (2_000, 512),
    )  # fmt: skip
    tokens: int = 20_000_000
    matrix_learning_rate: float = 0.02
    learning_rate: float = 0.004  # of embedding and norms
    warm_up: int = 80  # steps
    decay: float = 0.3  # share of all steps, linear to zero, at the end
    clip: float = 1.0

    @property
    def steps(self) -> int:
        return self.tokens // self.step_tokens

    def shape(self, step: int) -> tuple[int, int]:
        """Rows and context of a step."""
        context = next(context for first, context in reversed(self.contexts) if first <= step)
        return self.step_tokens // context, context

    def scale(self, step: int) -> float:
        """The factor of both learning rates: up, level, down."""
        rise = (step + 1) / self.warm_up
        fall = (self.steps - step) / (self.decay * self.steps)
        return min(1.0, rise, fall)


def train_tokenizer(plan: Plan) -> PreTrainedTokenizerFast:
    """A byte-level BPE with every digit apart. It adds no special token by itself."""
    tokenizer = Tokenizer(BPE())
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=plan.vocabulary,
        min_frequency=5,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(documents(plan.tokenizer_seed), plan.tokenizer_documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        model_max_length=plan.context,
        clean_up_tokenization_spaces=False,
    )


def build_model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained base."""
    torch.manual_seed(plan.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=plan.hidden,
            intermediate_size=plan.intermediate,
            num_hidden_layers=plan.layers,
            num_attention_heads=plan.heads,
            num_key_value_heads=plan.key_value_heads,
            max_position_embeddings=plan.context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Corpus:
    """The token stream of one seed, cut into batches; `cursor` and `rest` say where it stands."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, seed: int, cursor: int = 0, rest: Tensor | None = None
    ) -> None:
        self._encode, self._end, self._seed = tokenizer.backend_tokenizer.encode_batch, tokenizer.eos_token_id, seed
        self.cursor = cursor  # the next document
        self.rest = torch.empty(0, dtype=torch.long) if rest is None else rest

    def batch(self, rows: int, length: int) -> Tensor:
        """The next tokens, (rows, length + 1): inputs and, one further, targets."""
        wanted = rows * (length + 1)
        while len(self.rest) < wanted:
            texts = list(islice(documents(self._seed, self.cursor), 64))
            self.cursor += len(texts)
            ids = [token for encoding in self._encode(texts) for token in (*encoding.ids, self._end)]
            self.rest = torch.cat([self.rest, torch.tensor(ids)])
        taken, self.rest = self.rest[:wanted], self.rest[wanted:]
        return taken.view(rows, length + 1)


def mean_loss(model: LlamaForCausalLM, batch: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token of a batch (rows, length + 1)."""
    batch = batch.to(model.device)
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: Plan, batches: int = 4) -> float:
    """Nats per token on documents of the last stage, of a seed that training never used."""
    corpus = Corpus(tokenizer, plan.held_out_seed, cursor=STAGES[-1][0])
    losses = [mean_loss(model, corpus.batch(plan.step_tokens // plan.context, plan.context)) for _ in range(batches)]
    return float(torch.stack(losses).mean())


class Training:
    """A pre-training under way: model, optimisers, place in the corpus, and the log so far."""

    def __init__(self, plan: Plan, tokenizer: PreTrainedTokenizerFast) -> None:
        self.plan, self.tokenizer = plan, tokenizer
        self.model = build_model(plan, tokenizer).to(device())
        self.model.set_attn_implementation(BLOCKED_ATTENTION)
        matrices = [p for name, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in self.model.named_parameters() if p.ndim == 1 or "embed" in name]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "muon": Muon(matrices, plan.matrix_learning_rate, weight_decay=0.01),
            "adamw": torch.optim.AdamW(others, plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        }
        self._rates = {"muon": plan.matrix_learning_rate, "adamw": plan.learning_rate}
        self.corpus = Corpus(tokenizer, plan.seed)
        self.step, self.seconds, self.log = 0, 0.0, []

    def advance(self) -> float:
        """One step; its loss."""
        begun = time.perf_counter()
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._rates[name] * self.plan.scale(self.step)
        worker, workers = _place()
        loss = mean_loss(self.model, self.corpus.batch(*self.plan.shape(self.step))[worker::workers])
        loss.backward()
        loss = self._average(loss.detach(), workers)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip, error_if_nonfinite=True)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return loss.item()

    def _average(self, loss: Tensor, workers: int) -> Tensor:
        """Replace every gradient by its mean over the workers, in one exchange; the mean of their losses."""
        if workers == 1:
            return loss
        gradients = [parameter.grad for parameter in self.model.parameters()]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss.view(1)])
        distributed.all_reduce(flat)
        *means, mean = flat.div_(workers).split([*(gradient.numel() for gradient in gradients), 1])
        for gradient, found in zip(gradients, means, strict=True):
            gradient.copy_(found.view_as(gradient))
        return mean[0]

    def note(self, loss: float) -> None:
        """Log the mean loss of the last steps."""
        tokens, seconds = self.step * self.plan.step_tokens, round(self.seconds, 1)
        self.log.append({"step": self.step, "tokens": tokens, "loss": round(loss, 4), "seconds": seconds})
        _LOGGER.info("step %d of %d: loss %.4f, %.0f tokens/s", self.step, self.plan.steps, loss, tokens / self.seconds)

    def save(self, folder: Path) -> None:
        """A checkpoint in one file for the tensors and one, written last, for the numbers."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.named_parameters()}
        tensors["corpus.rest"] = self.corpus.rest
        for kind, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"{kind}.{index}.{name}": tensor for name, tensor in state.items()}
        name = f"step{self.step}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / name) as temporary:
            save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, temporary)
        write_json(
            folder / "checkpoint.json",
            {"file": name, "step": self.step, "cursor": self.corpus.cursor, "seconds": self.seconds, "log": self.log},
        )

    def load(self, folder: Path) -> None:
        """Go on from the checkpoint in the folder."""
        record = read_json(folder / "checkpoint.json")
        tensors = load_file(folder / record["file"])
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
        for kind, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key in (key for key in tensors if key.startswith(f"{kind}.")):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = tensors[key]
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.corpus = Corpus(self.tokenizer, self.plan.seed, record["cursor"], tensors["corpus.rest"])
        self.step, self.seconds, self.log = record["step"], record["seconds"], record["log"]


def device() -> torch.device:
    """A GPU where there is one, for which one worker is enough."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _place() -> tuple[int, int]:
    """This process's number among the workers, and how many there are."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _machine() -> dict[str, object]:
    return {
        "processor": next(
            (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
        ),
        "workers": _place()[1],
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


def _cpuinfo() -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    return iter(path.read_text().splitlines() if path.exists() else ())


def write_base(training: Training, folder: Path) -> None:
    """Weights in bfloat16, tokenizer, and the record of how they came about."""
    plan, tokenizer = training.plan, training.tokenizer
    model = build_model(plan, tokenizer)
    model.load_state_dict(training.model.state_dict())
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tokens = training.step * plan.step_tokens
    record = {
        "plan": asdict(plan),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": tokens,
        "documents": training.corpus.cursor,
        "seconds": round(training.seconds, 1),
        "tokens_per_second": round(tokens / training.seconds),
        "held_out_loss": round(held_out_loss(training.model, tokenizer, plan), 4),
        "machine": _machine(),
        "curve": training.log,
    }
    write_json(folder / "pretraining.json", record)


def pretrain(plan: Plan, out: Path, checkpoints: Path, save_seconds: float = 240) -> None:
    """Train until the plan is done, with a checkpoint every `save_seconds`, then write the base.

    Of several workers each does its share of every batch, and the first writes.
    """
    writes = _place()[0] == 0
    training = Training(plan, train_tokenizer(plan))
    if (checkpoints / "checkpoint.json").exists():
        training.load(checkpoints)
    saved, recent = time.monotonic(), []
    while training.step < plan.steps:
        recent.append(training.advance())
        if writes and len(recent) == LOGGED_STEPS:
            training.note(sum(recent) / len(recent))
            recent = []
        if writes and time.monotonic() - saved > save_seconds:
            training.save(checkpoints)
            saved = time.monotonic()
    if writes:
        training.save(checkpoints)
        write_base(training, out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Pre-train the embedded base model.")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--checkpoints", type=Path, default=Path("runs/tiny-pretraining"))
    parser.add_argument("--tokens", type=int, default=Plan.tokens)
    parser.add_argument("--workers", type=int, default=1 if torch.cuda.is_available() else os.cpu_count())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(_work, (arguments, f"file://{meeting}/workers"), nprocs=arguments.workers)


def _work(worker: int, arguments: argparse.Namespace, meeting: str) -> None:
    """One worker on one thread: on a busy machine two threads of one process wait for each other half the time."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    # a base that has become sure of itself has attention weights near 1e-40; such numbers cost half the speed
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("medium")  # products through oneDNN where that is faster, at float32 accuracy
    distributed.init_process_group("gloo", init_method=meeting, rank=worker, world_size=arguments.workers)
    pretrain(replace(Plan(), tokens=arguments.tokens), arguments.out, arguments.checkpoints)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
