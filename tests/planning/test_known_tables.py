"""Tables that the field knows by heart, from the planner; docs/known-tables.md shows them, and is held to them here."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tunewise.methods import parse_method
from tunewise.methods.reparam.low_rank import LowRank
from tunewise.models.anatomy import Site
from tunewise.planning.devices import device_named
from tunewise.planning.parameters import count_on
from tunewise.planning.rehearsal import rehearse
from tunewise.planning.shell import shell_of
from tunewise.planning.work import Work
from tunewise.report import words

PAGE = (Path(__file__).parents[2] / "docs" / "known-tables.md").read_text("utf-8")


def planned(base: str, method: str):
    return count_on(shell_of(base), parse_method(method))


def on_the_page(*cells: str) -> None:
    row = f"| {' | '.join(cells)} |"
    assert row in PAGE.splitlines(), f"docs/known-tables.md lacks the row\n{row}"


SQUARE = [  # billions of parameters, rank, percent, the base of about that size
    (7, 8, 0.02, "llama-2-7b"),
    (7, 512, 1.22, "llama-2-7b"),
    (7, 8192, 19.58, "llama-2-7b"),
    (13, 1024, 1.80, "llama-2-13b"),
    (70, 512, 0.39, "llama-2-70b"),
    (180, 8192, 3.86, "falcon-180b"),
]


def square_share(n_parameters: float, rank: int) -> float:
    """What LoRA trains of a model that is one square matrix."""
    side = round(n_parameters**0.5)
    with torch.device("meta"):
        delta = LowRank(Site("layers.0.q", "q", 0, "q", side, side), rank, 1.0, 0.0, "kaiming")
    return sum(tensor.numel() for tensor in delta.parameters()) / side**2


@pytest.mark.parametrize(("billions", "rank", "percent", "base"), SQUARE)
def test_the_share_of_one_square_matrix_beside_that_of_the_base(billions, rank, percent, base):
    share = square_share(billions * 1e9, rank)
    assert share == pytest.approx(2 * rank / (billions * 1e9) ** 0.5, rel=1e-4)
    assert round(100 * share, 2) == percent
    of_base = [planned(base, f"lora:rank={rank}{roles}").share for roles in ("", ":roles=[all]")]
    told = [f"{100 * found:.3g} %" for found in of_base]
    on_the_page(f"{billions} B", f"{rank:,}", f"{percent:.2f} %", f"`{base}`", *told)


@dataclass(frozen=True)
class Printed:
    """What a paper prints under "trainable parameters", beside what the planner counts."""

    base: str
    method: str
    printed: str
    differs: str = ""
    millions_off: float = 0.0
    """Where it `differs`."""
    head: bool = False
    """Whether the planner counts a classifier, which the paper does not."""

    @property
    def value(self) -> float:
        return float(self.printed.replace(",", "").removesuffix(" M")) * (1e6 if self.printed.endswith("M") else 1)

    @property
    def tolerance(self) -> float:
        """Half of the last digit that is printed."""
        if self.differs or not self.printed.endswith("M"):
            return 1e6 * self.millions_off
        return 0.5e6 / 10 ** len(self.printed.removesuffix(" M").partition(".")[2])


PRINTED = [
    # Hu et al. 2021, table 4
    Printed("gpt-3-175b", "full", "175,255.8 M", "the sizes in the GPT-3 paper give 174,604.3 M", 652),
    Printed("gpt-3-175b", "bitfit", "14.2 M", "11 biases of width d a layer here, 12 there", 1.3),
    Printed("gpt-3-175b", "prompt_tuning:virtual_tokens=264", "3.2 M"),
    Printed("gpt-3-175b", "prefix_tuning:virtual_tokens=8", "20.2 M", "keys and values here, outputs there", 1.4),
    Printed("gpt-3-175b", "bottleneck:bottleneck=1:placement=houlsby", "7.1 M"),
    Printed("gpt-3-175b", "bottleneck:bottleneck=8:placement=houlsby", "40.1 M"),
    Printed("gpt-3-175b", "lora:rank=1", "4.7 M"),
    Printed("gpt-3-175b", "lora:rank=8", "37.7 M"),
    # Hu et al. 2021, table 5: one budget, whichever matrices share it
    Printed("gpt-3-175b", "lora:rank=8:roles=[q]", "18 M", "cut off there, not rounded", 0.9),
    Printed("gpt-3-175b", "lora:rank=4", "18 M", "cut off there, not rounded", 0.9),
    Printed("gpt-3-175b", "lora:rank=2:roles=[q,k,v,o]", "18 M", "cut off there, not rounded", 0.9),
    # Hu et al. 2021, table 2
    Printed("roberta-base", "lora", "0.3 M", head=True),
    Printed("roberta-large", "lora", "0.8 M", head=True),
    # Liu et al. 2022 (T-Few), of T0-3B, which is a T5 1.1 of that size
    Printed("flan-t5-xl", "ia3", "0.54 M"),
    # Lester et al. 2021, section 1
    Printed("flan-t5-xxl", "prompt_tuning:virtual_tokens=5", "20,480"),
    # as peft's print_trainable_parameters() tells them
    Printed("flan-t5-xxl", "lora:rank=16", "18,874,368"),
    Printed("llama-2-7b", "lora", "4,194,304"),
    Printed("llama-2-7b", "lora:rank=64:roles=[all]", "159,907,840"),
]


@pytest.mark.parametrize("row", PRINTED, ids=lambda row: f"{row.base}-{row.method}")
def test_what_papers_print_as_trained_parameters(row):
    found = planned(row.base, row.method).n_trainable - (planned(row.base, "head").n_trainable if row.head else 0)
    assert found == pytest.approx(row.value, abs=row.tolerance, rel=0)
    on_the_page(f"`{row.base}`", f"`{row.method}`", f"{found:,}", row.printed, row.differs or "–")


def test_flan_t5_xxl_with_lora_as_peft_counts_it():
    """peft counts what LoRA adds among all parameters."""
    found = planned("flan-t5-xxl", "lora:rank=16")
    assert found.n_trainable + found.n_base == 11_154_206_720
    assert f"{found.n_trainable:,} of {found.n_trainable + found.n_base:,}" in PAGE


@pytest.mark.parametrize(("base", "percent"), [("bert-base", 0.09), ("bert-large", 0.08)])
def test_bitfit_trains_what_its_paper_says(base, percent):
    """Ben Zaken et al. 2022, table 1; without the classifier."""
    biases = planned(base, "bitfit").n_trainable - planned(base, "head").n_trainable
    n_base = planned(base, "bitfit").n_base
    assert round(100 * biases / n_base, 2) == percent


N_TASKS = 100


@pytest.mark.parametrize(
    ("base", "method"),
    [
        ("gpt-3-175b", "lora:rank=4"),
        ("llama-3.1-8b", "lora:rank=16:roles=[all]"),
        ("llama-3.1-8b", "prompt_tuning"),
        ("flan-t5-xxl", "ia3"),
        ("bert-base", "bottleneck"),
    ],
)
def test_a_full_copy_a_task_against_an_adapter_a_task(base, method):
    """Hu et al. 2021, footnote 5: a hundred copies of GPT-3 take 35 TB, one and a hundred adapters 354 GB."""
    found = planned(base, method)
    copy = 2 * found.n_base  # in bfloat16; adapters are kept in float32
    copies, adapters = N_TASKS * copy, copy + N_TASKS * found.adapter_bytes
    assert adapters < copies / 20
    if base == "gpt-3-175b":
        assert copies == pytest.approx(35e12, rel=0.01)
        assert adapters == pytest.approx(354e9, rel=0.015)
    cells = [words.size(n) for n in (copy, found.adapter_bytes, copies, adapters)]
    on_the_page(f"`{base}`", f"`{method}`", *cells, words.times(copies / adapters))


QLORA = {"name": "lora", "rank": 64, "roles": ("all",)}  # Dettmers et al. 2023, appendix B.2
ONE_ROW = Work(rows=1, tokens=512, labels=512, checkpointing=True)


@pytest.mark.parametrize(("base", "printed"), [("llama-1-7b", 6.9), ("llama-1-65b", 45.0)])
def test_qlora_takes_the_memory_that_its_paper_draws(base, printed):
    """Dettmers et al. 2023, figure 6: one row of 512 tokens, base and adapters."""
    found = rehearse(shell_of(base), parse_method(QLORA), replace(ONE_ROW, quantise="nf4"), "cuda").memory
    assert found.total / 1e9 == pytest.approx(printed, rel=0.10)
    if base == "llama-1-65b":
        assert found.total <= device_named("a6000").memory_bytes  # one card of 48 GB
    parts = [found.weights, found.constants, found.gradients, found.optimiser, found.total]
    on_the_page(f"`{base}`", *(words.size(n) for n in parts), f"{printed} GB")


def test_all_of_a_65b_base_in_16_bits_takes_more_than_780_gb():
    """Dettmers et al. 2023, abstract: 2 bytes of weight, 2 of gradient and 8 of moments a parameter, 12 in all."""
    shell = shell_of("llama-1-65b")
    found = rehearse(shell, parse_method("full"), ONE_ROW, "cuda").memory
    assert 12 * shell.n_parameters > 780e9
    assert found.total > 12 * shell.n_parameters
    assert f"{words.size(found.total)} here" in PAGE
