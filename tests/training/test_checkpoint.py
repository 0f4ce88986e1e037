import json
import multiprocessing
import random
import resource
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.bases import build
from tests.training import killed_run
from tests.tuned import moved
from tunewise.errors import UserError
from tunewise.files import sha256
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models import aside
from tunewise.training import checkpoint
from tunewise.training.checkpoint import Checkpoint
from tunewise.training.optimiser import Optimiser
from tunewise.training.state import State


def steps_in(log):
    return log.read_text().count('"loss"') if log.exists() else 0


@pytest.mark.parametrize("how", [(killed_run.LORA,), ("full", 0)], ids=["in memory", "on the disk"])
def test_a_run_killed_three_times_ends_as_one_that_was_not(tmp_path, monkeypatch, how):
    """SIGKILL at random moments; adapter, optimiser state and losses are bit for bit those of an undisturbed run."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    monkeypatch.setattr(aside, "LARGEST_IN_MEMORY_BYTES", aside.LARGEST_IN_MEMORY_BYTES)  # as it is now, behind this
    killed_run.carry_out(str(whole), *how)
    # a forked child of a server process that imported everything once: a real process, without 5 s of imports each
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.killed_run"])
    moments = random.Random()
    for number in range(3):
        process = context.Process(target=killed_run.carry_out, args=(str(killed), *how))
        process.start()
        goal = (number + 1) * killed_run.STEPS // 4 + moments.randrange(killed_run.CHECKPOINT_EVERY)
        while steps_in(killed / "log.jsonl") < goal and process.is_alive():
            time.sleep(0.001)
        time.sleep(moments.random() * 0.03)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run was over before it was killed"
    assert not (killed / "result.safetensors").exists()
    assert checkpoint.load(killed / "checkpoints").state["position"]["step"] >= killed_run.STEPS // 2
    process = context.Process(target=killed_run.carry_out, args=(str(killed), *how))
    process.start()
    process.join()
    assert process.exitcode == 0

    expected, found = load_file(whole / "result.safetensors"), load_file(killed / "result.safetensors")
    assert len(found["losses"]) == killed_run.STEPS
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    # the last checkpoint holds moments, best state and generators; one digest covers them all
    last = f"checkpoints/step-{killed_run.STEPS - killed_run.CHECKPOINT_EVERY:08d}"
    names = load_file(killed / last / checkpoint.TENSORS).keys()
    best = sorted(path.name for path in (killed / "checkpoints").glob("best-*"))
    assert best == sorted(path.name for path in (whole / "checkpoints").glob("best-*"))
    inside = {name.split(".")[0] for name in names}
    assert inside == {"trained", "optimiser", "losses", "random", *([] if best else ["best"])}
    assert bool(best) == (how == ("full", 0))
    for name in best:
        path = f"checkpoints/{name}/{checkpoint.TENSORS}"
        assert sha256(killed / path) == sha256(whole / path)
    assert sha256(killed / last / checkpoint.TENSORS) == sha256(whole / last / checkpoint.TENSORS)
    lines = [json.loads(line) for line in (killed / "log.jsonl").read_text().splitlines()]
    undisturbed = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, killed_run.STEPS + 1))
    for line, other in zip(lines, undisturbed, strict=True):
        assert {**line, "seconds": 0} == {**other, "seconds": 0}


def some_checkpoint(value=1.0):
    return Checkpoint({"trained.w": torch.full((200,), value), "random.cpu": torch.get_rng_state()}, {"step": value})


def test_only_the_newest_checkpoint_stays(tmp_path):
    assert checkpoint.load(tmp_path) is None
    checkpoint.save(tmp_path, 5, some_checkpoint(1.0))
    (tmp_path / ".step-00000009.tmp").mkdir()  # left by a killed process
    checkpoint.save(tmp_path, 10, some_checkpoint(2.0))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    assert checkpoint.load(tmp_path).tensors["trained.w"][0] == 2.0
    checkpoint.remove(tmp_path)
    assert not tmp_path.exists()


def test_a_best_state_that_a_checkpoint_speaks_of_is_told_when_it_is_gone(tmp_path):
    checkpoint.save_best(tmp_path, 5, {"w": torch.ones(3)})
    checkpoint.save_best(tmp_path, 9, {"w": torch.zeros(3)})
    checkpoint.remove_bests(tmp_path, {5})
    assert checkpoint.load_best(tmp_path, 5)["w"].tolist() == [1.0] * 3
    with pytest.raises(UserError, match=r"(?s)best-00000009.* start over"):
        checkpoint.load_best(tmp_path, 9)


def test_the_best_state_of_the_last_checkpoint_stays_until_there_is_a_newer_one(tmp_path, monkeypatch):
    monkeypatch.setattr(aside, "LARGEST_IN_MEMORY_BYTES", 0)
    tuned = attach(build("llama"), parse_method("lora"))

    def begun():
        return State(tuned, Optimiser(tuned.trainable), tmp_path)

    def find_best(state, step):
        state.position.step = state.position.best_step = step
        state.position.best_score = float(step)
        state.keep_best()

    state, kept = begun(), moved(tuned).state()
    find_best(state, 5)
    state.save("this", 9, 1)
    moved(tuned)
    find_best(state, 7)  # and the process is killed before its next checkpoint
    again = begun()
    again.resume("this")
    assert again.position.best_step == 5
    moved(tuned)
    again.position.step = 6
    again.take_best()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in tuned.state().items())
    find_best(again, 8)
    again.save("this", 9, 1)
    assert sorted(path.name for path in again.checkpoints.iterdir()) == ["best-00000008", "step-00000008"]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    checkpoint.save(tmp_path, 5, some_checkpoint(1.0))
    (tmp_path / "step-00000005").rename(tmp_path / "kept")
    checkpoint.save(tmp_path, 10, some_checkpoint(2.0))
    newest = tmp_path / "step-00000010" / checkpoint.TENSORS
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.load(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "step-00000005")
    assert checkpoint.load(tmp_path).tensors["trained.w"][0] == 1.0


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    checkpoint.save(tmp_path, 5, some_checkpoint())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*step-00000010"):
            checkpoint.save(tmp_path, 10, some_checkpoint())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]
    assert checkpoint.load(tmp_path) is not None


def test_both_generators_are_restored():
    tensors, python = checkpoint.random_state(torch.device("cpu"))
    expected = (torch.rand(3), random.random(), random.gauss(0, 1))
    checkpoint.set_random_state(tensors, json.loads(json.dumps(python)), torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), random.gauss(0, 1)) == expected[1:]
