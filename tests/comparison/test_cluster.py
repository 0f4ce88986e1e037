"""A comparison on the workers of a Ray cluster, here one of this machine; and which workers fit on which nodes."""

import importlib.util
import os
import signal
from pathlib import Path

import pytest

from tests.comparison.small_comparison import assert_same, carry_out, place_for, resumed
from tests.comparison.test_grid import Followed
from tests.comparison.test_interrupted import Killing
from tunewise import files
from tunewise.comparison import Ray, cluster
from tunewise.comparison.cluster import Share, share_of
from tunewise.errors import UserError
from tunewise.run.record import DONE, RUNNING

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return place_for(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def ray():
    """A cluster of this machine with two cores."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.parametrize(
    ("nodes", "wanted", "on_gpus", "share"),
    [
        ([(2, 0)], None, False, Share(1, 2)),
        ([(2, 0)], 2, False, Share(2, 1)),
        ([(2, 0)], 5, False, Share(2, 1)),  # no more than there are cores
        ([(8, 0), (8, 0), (0, 0)], None, False, Share(2, 8)),
        ([(8, 0), (4, 0)], None, False, Share(2, 4)),  # all have the same
        ([(8, 0), (4, 0)], 1, False, Share(1, 8)),
        ([(8, 0), (4, 0)], 3, False, Share(3, 4)),
        ([(8, 0), (4, 0)], 4, False, Share(4, 2)),
        ([(16, 4), (32, 0)], None, True, Share(4, 4, 1)),
        ([(16, 4), (8, 1)], 2, True, Share(2, 8, 1)),
        ([(16, 1)], 8, True, Share(1, 16, 1)),
    ],
)
def test_workers_are_as_many_as_fit_each_with_as_many_cores_as_all_can_have(nodes, wanted, on_gpus, share):
    assert share_of(nodes, wanted, on_gpus) == share


@pytest.mark.parametrize(("on_gpus", "told"), [(False, "no CPU"), (True, "no GPU")])
def test_a_cluster_without_room_is_refused(on_gpus, told):
    with pytest.raises(UserError, match=told):
        share_of([(0, 0), (2, 0)] if on_gpus else [(0, 0)], None, on_gpus)


def test_without_ray_it_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs ray") as error:
        cluster.OnCluster(Ray(), tmp_path)
    assert error.value.hint == "pip install 'tunewise[ray]'"


def test_a_worker_stands_where_the_recipes_were_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # and back again
    monkeypatch.setenv(cluster.VARIABLE, "cpu")
    (tmp_path / "here").mkdir()
    worker = cluster.Worker(1, "", str(tmp_path / "here"))
    assert Path.cwd() == tmp_path / "here"
    assert os.environ[cluster.VARIABLE] == "cpu"
    assert worker.sees(str(tmp_path / "here")) == (os.uname().nodename, False)
    cluster.Worker(1, "cuda", str(tmp_path / "of another machine"))
    assert Path.cwd() == tmp_path / "here"
    assert os.environ[cluster.VARIABLE] == "cuda"


@needs_ray
@pytest.mark.usefixtures("ray", "without_a_fresh_process")
def test_a_cluster_finds_what_one_process_finds(place, tmp_path, caplog):
    watcher = Followed()
    with caplog.at_level("INFO", logger="tunewise"):
        carry_out(place, tmp_path, workers=Ray(2), progress=watcher)
    assert_same(tmp_path, place / "whole")
    assert watcher.n_workers == 2
    assert sorted(watcher.told[::2]) == ["ia3 seed 0", "ia3 seed 1", "lora seed 0", "lora seed 1"]
    assert watcher.begun, "who works says when it begins"
    assert "2 workers on 1 nodes, each with 1 CPUs" in caplog.text
    assert "16 of " in caplog.text, "what a worker logs is heard here"
    assert not list(tmp_path.glob(".cluster-*"))


@needs_ray
@pytest.mark.usefixtures("ray", "without_a_fresh_process")
def test_the_runs_of_a_worker_that_is_killed_go_on_elsewhere(place, tmp_path):
    carry_out(place, tmp_path, workers=Ray(2), progress=Killing(tmp_path))
    assert max(resumed(tmp_path)) >= 5
    assert_same(tmp_path, place / "whole")


@needs_ray
@pytest.mark.usefixtures("ray", "without_a_fresh_process")
def test_ctrl_c_leaves_checkpoints_from_which_the_same_command_goes_on(place, tmp_path):
    class Stopping(Followed):
        asked = False

        def stepped(self, step, loss, n_tokens):
            if not self.asked:
                self.asked = True
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        carry_out(place, tmp_path, workers=Ray(1), progress=Stopping())
    assert list(tmp_path.rglob("checkpoints/step-*/manifest.json"))
    assert not list(tmp_path.rglob(RUNNING)), "the worker left in good order"
    n_done = len(list(tmp_path.rglob(DONE)))
    assert n_done < 4
    carry_out(place, tmp_path)
    assert max(resumed(tmp_path)) > 0
    assert_same(tmp_path, place / "whole")


@needs_ray
@pytest.mark.usefixtures("ray")
def test_a_folder_that_a_node_does_not_see_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write_text", lambda path, text: None)  # a disk of this machine alone
    with pytest.raises(UserError, match=r"does not see .*: all nodes of the cluster write into one folder"):
        carry_out(place, tmp_path, workers=Ray(1))


@needs_ray
def test_an_address_where_nobody_answers_is_refused(tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1: .*refused"):
        cluster.OnCluster(Ray(), tmp_path).__enter__()
