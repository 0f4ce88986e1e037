"""One run: a base, a method, a task and a seed, carried out into a folder of plain files."""

from tunewise.run.adapter_base import base_of_adapter
from tunewise.run.adapter_start import start_adapter
from tunewise.run.adapters import combine_adapters, compare_adapters, merge_adapter, save_merged
from tunewise.run.carry_out import run, train
from tunewise.run.dial import dial_adapter
from tunewise.run.examined import examine_data, refuse_unfit
from tunewise.run.going_on import going_on
from tunewise.run.measure import evaluate, evaluate_with_harness
from tunewise.run.mixing_table import mixing_table
from tunewise.run.prepare import Bases, Loading, base_of
from tunewise.run.quantize import quantize
from tunewise.run.recipe import Recipe, build_recipe, run_folder
from tunewise.run.record import is_done
from tunewise.run.reloads import add_reload_proof
from tunewise.run.routes import merge_by, weigh_routes
from tunewise.run.together import plan, run_together
from tunewise.run.training_rows import in_columns
from tunewise.training.proofs import failed_proofs, prove_adapter, prove_merged
from tunewise.training.reload import prove_in_fresh_process

__all__ = [
    "Bases",
    "Loading",
    "Recipe",
    "add_reload_proof",
    "base_of",
    "base_of_adapter",
    "build_recipe",
    "combine_adapters",
    "compare_adapters",
    "dial_adapter",
    "evaluate",
    "evaluate_with_harness",
    "examine_data",
    "failed_proofs",
    "going_on",
    "in_columns",
    "is_done",
    "merge_adapter",
    "merge_by",
    "mixing_table",
    "plan",
    "prove_adapter",
    "prove_in_fresh_process",
    "prove_merged",
    "quantize",
    "refuse_unfit",
    "run",
    "run_folder",
    "run_together",
    "save_merged",
    "start_adapter",
    "train",
    "weigh_routes",
]
