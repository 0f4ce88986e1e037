"""Two smaller siblings of the base `tiny`: `python -m bench.icl_vs_ft --sizes FOLDER`, minutes each on one thread.

They make the sizes of the grid on docs/icl-vs-ft.md; a command that was stopped goes on from its checkpoint.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from tunewise.models.tiny.pretrain import Plan, pretrain

SIZES: dict[str, Plan] = {
    "small": replace(
        Plan(), hidden=96, intermediate=256, layers=2, tokens=2_400_000,
        contexts=((0, 128), (150, 256), (400, 512)), warm_up=40,
    ),
    "middle": replace(
        Plan(), hidden=160, intermediate=416, layers=3, tokens=2_400_000,
        contexts=((0, 128), (150, 256), (400, 512)), warm_up=40,
    ),
}  # fmt: skip


def write_sizes(folder: Path) -> None:
    """Pre-train what is not there yet, one after another."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("medium")
    for name, plan in SIZES.items():
        if not (folder / name / "pretraining.json").is_file():
            pretrain(plan, folder / name, folder / "checkpoints" / name)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=Path, default=Path("runs/sizes-of-tiny"))
    write_sizes(parser.parse_args().sizes)


if __name__ == "__main__":
    main()
