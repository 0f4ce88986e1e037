"""The 175 seed tasks of Self-Instruct, and novelty among instructions that people wrote."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from tests.real.test_data import FOLDER
from tunewise.teacher.filters import why_no_instruction
from tunewise.teacher.novelty import Kept
from tunewise.teacher.scripts import scripts_of
from tunewise.teacher.seeds import read_seeds
from tunewise.teacher.shown import Shown

SEEDS = FOLDER / "self_instruct" / "seed_tasks.jsonl"
pytestmark = pytest.mark.skipif(not SEEDS.is_file(), reason=f"no {SEEDS}; name its folder in TUNEWISE_REAL_DATA")


def test_the_seed_tasks_are_read() -> None:
    seeds = read_seeds(SEEDS)
    assert len(seeds) == 175
    assert [task.is_classification for task in seeds].count(True) == 26
    assert scripts_of(task.instruction for task in seeds) == {"Latin"}
    shown = Shown(seeds, 0)
    assert len(shown.mixed) == 6
    n_refused = sum(bool(why_no_instruction(task.instruction, scripts=frozenset({"Latin"}))) for task in seeds)
    assert n_refused <= 9, "people's own instructions pass the filters"


def test_the_nearest_of_people_s_instructions_is_that_of_rouge_score() -> None:
    texts = [task.instruction for task in read_seeds(SEEDS)]
    scorer, kept, n_near = RougeScorer(["rougeL"]), Kept(0.4), 0
    for number, text in enumerate(texts):
        best = max((scorer.score(text, other)["rougeL"].fmeasure for other in texts[:number]), default=0.0)
        found = kept.nearest(text)
        expected = best if best >= 0.4 - 1e-9 else 0.0  # rouge-score rounds on its way
        assert (found[1] if found else 0.0) == pytest.approx(expected, abs=1e-12), text
        n_near += found is not None
        kept.add(text)
    assert n_near >= 10
