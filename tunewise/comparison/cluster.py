"""Runs on the workers of a Ray cluster, which write into the same folders on storage that all nodes share.

Each worker is an actor that keeps its base between runs. When one dies, alone or with its node, the next that is free
takes its runs up from their checkpoints: beside the folders there is nothing to lose. Needs the extra `ray`.

Moritz et al. 2018, "Ray: A Distributed Framework for Emerging AI Applications", arXiv:1712.05889.
"""

import _thread
import importlib.util
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import torch

from tunewise import files
from tunewise.comparison.outcome import Outcome
from tunewise.comparison.relay import Begins, Listener, Telling, Told, log_through
from tunewise.comparison.workers import SECONDS_TO_SAVE, Job, Workers
from tunewise.errors import UserError
from tunewise.files import Held
from tunewise.models.device import VARIABLE
from tunewise.run import Bases

logger = logging.getLogger(__name__)

N_LIVES = 4  # workers that a job may cost before it is given up
SECONDS_TO_ANSWER = 10.0
SECONDS_TO_START = 60.0  # after which it is told that the cluster has no room yet
GO_ON = "the same command goes on from the checkpoints"


@dataclass(frozen=True)
class Ray:
    """The cluster that RAY_ADDRESS names, or that this machine is part of, or one of this machine alone."""

    workers: int | None = None
    """At most so many. None takes one a GPU where there are any (TUNEWISE_DEVICE=cpu takes none), else one a node."""


@dataclass(frozen=True)
class Share:
    """What each of `workers` workers has to itself."""

    workers: int
    cpus: int
    gpus: int = 0


def share_of(nodes: Sequence[tuple[int, int]], wanted: int | None, on_gpus: bool) -> Share:
    """How many workers fit on nodes of so many (CPUs, GPUs), each with as many CPUs as all can have.

    UserError where none does.
    """

    def room(cpus: int) -> int:
        return sum(min(of_node // cpus, gpus) if on_gpus else of_node // cpus for of_node, gpus in nodes)

    if not room(1):
        told = "GPU" if on_gpus else "CPU"
        raise UserError(f"the Ray cluster has no {told} for a worker", "ray status shows what it has")
    most = sum(gpus for _, gpus in nodes) if on_gpus else sum(cpus > 0 for cpus, _ in nodes)
    workers = min(most if wanted is None else wanted, room(1))
    cpus = next(cpus for cpus in range(max(cpus for cpus, _ in nodes), 0, -1) if room(cpus) >= workers)
    return Share(workers, cpus, int(on_gpus))


class Worker:
    """One process of the cluster: it carries out a job at a time, on a base that it loads once."""

    def __init__(self, n_threads: int, device: str, folder: str) -> None:
        if device:
            os.environ[VARIABLE] = device
        if Path(folder).is_dir():
            os.chdir(folder)  # from which the paths of the recipes go
        torch.set_num_threads(n_threads)
        self._bases: Bases = {}
        self._waits = False

    def sees(self, marker: str) -> tuple[str, bool]:
        """The name of its machine, and whether the file `marker` is there."""
        return os.uname().nodename, Path(marker).is_file()

    def carry_out(self, number: int, job: Job, told: Told, leave: Told) -> list[Outcome] | Held:
        """What came of the runs of job `number`; a word in `leave` ends it with a checkpoint."""
        log_through(told)
        if not self._waits:
            threading.Thread(target=_leave_when_told, args=(leave,), daemon=True).start()
            self._waits = True
        return job.carry_out(self._bases, Telling(number, told))


class _Lost(UserError):
    """A worker is gone, and what it was at with it."""


def _leave_when_told(leave: Told) -> None:
    """As on Ctrl-C, which never reaches a worker. Whoever is to say it may be gone: that is a word too."""
    try:
        leave.get()
    finally:
        _thread.interrupt_main()


class OnCluster(Workers):
    """The workers of a Ray cluster, for runs whose folders lie below `root`.

    UserError where ray is not installed, no cluster answers, it has no room, a node does not see `root`, or a worker
    dies again and again.
    """

    def __init__(self, cluster: Ray, root: Path) -> None:
        self._ray = _installed()
        self._cluster, self._root = cluster, root.absolute()

    def __enter__(self) -> Self:
        ray = self._ray
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _connect(ray)
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in resources]
        device = os.environ.get(VARIABLE) or ("cuda" if any(gpus for _, gpus in nodes) else "cpu")
        on_gpus = device.startswith("cuda")
        share = share_of(nodes, self._cluster.workers, on_gpus)
        self.n_workers = share.workers
        told = f"{share.workers} workers on {len(nodes)} nodes, each with {share.cpus} CPUs"
        logger.info("Ray: %s%s", told, f" and {share.gpus} GPU" if on_gpus else "")
        # beside this process, since they are lost with their node
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._told, self._leave = (
            ray.util.queue.Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here}) for _ in range(2)
        )
        self._listener = Listener(self._told)
        # Ray shows a worker its own GPU alone
        self._actor = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus)(Worker)
        self._arguments = share.cpus, "cuda" if on_gpus else device, str(Path.cwd())
        self._marker = self._root / f".cluster-{secrets.token_hex(4)}"
        files.write_text(self._marker, "")
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int]] = {}
        for _ in range(share.workers):
            self._start()
        return self

    def _start(self) -> None:
        """Ask for a worker; it comes when the cluster has room for one."""
        worker = self._actor.remote(*self._arguments)
        self._starting[worker.sees.remote(str(self._marker))] = worker

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ray = self._ray
        busy = [worker for worker, _ in self._busy.values()]
        if busy:
            self._leave.put_nowait_batch([None] * len([*busy, *self._idle]))
            ray.wait(list(self._busy), num_returns=len(busy), timeout=SECONDS_TO_SAVE)
        self._listener.stop()
        for worker in [*busy, *self._idle, *self._starting.values()]:
            ray.kill(worker)
        for queue in (self._told, self._leave):
            queue.shutdown(force=True)
        self._marker.unlink(missing_ok=True)
        if self._is_ours:
            ray.shutdown()

    def carry_out(self, jobs: Sequence[Job], begins: Begins) -> Iterator[tuple[int, list[Outcome] | Held]]:
        """Each worker takes the next job when it has ended one; those that the cluster has no room for yet come in
        when they start."""
        self._listener.follow(begins)
        left, lives = list(range(len(jobs))), [N_LIVES] * len(jobs)
        while left or self._busy:
            while left and self._idle:
                number, worker = left.pop(0), self._idle.pop()
                job = worker.carry_out.remote(number, _absolute(jobs[number]), self._told, self._leave)
                self._busy[job] = worker, number
            awaited = [*self._busy, *(self._starting if left else ())]
            ready, _ = self._ray.wait(awaited, timeout=None if self._busy else SECONDS_TO_START)
            if not ready:
                logger.info("Ray: waiting for room for a worker; ray status shows who has it")
            for reference in ready:
                if reference in self._starting:
                    worker = self._starting.pop(reference)
                    self._check_storage(*self._result(reference))
                    self._idle.append(worker)
                    continue
                worker, number = self._busy.pop(reference)
                try:
                    outcome = self._result(reference)
                except _Lost as lost:
                    lives[number] -= 1
                    if not lives[number]:
                        raise
                    logger.warning("%s; another goes on with its runs", lost.message)
                    self._ray.kill(worker)  # if it is the network that is gone, the worker is not
                    left.insert(0, number)
                    self._start()
                else:
                    self._idle.append(worker)
                    yield number, outcome

    def _result(self, reference: Any) -> Any:
        """What a worker answered; UserErrors as they were raised there, and _Lost where it is gone."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except (errors.RayActorError, errors.OutOfMemoryError) as error:
            told = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = told[-1] if told else "no reason is known"
            raise _Lost(f"a worker of the Ray cluster is lost: {reason}", GO_ON) from None

    def _check_storage(self, machine: str, sees: bool) -> None:
        if not sees:
            raise UserError(
                f"{machine} does not see {self._root}: all nodes of the cluster write into one folder",
                "give --out a folder on storage that every node has at the same place",
            )


def _absolute(job: Job) -> Job:
    """A worker stands in another folder than we do."""
    return replace(job, folders=[folder.absolute() for folder in job.folders])


def _installed() -> ModuleType:
    if importlib.util.find_spec("ray") is None:
        raise UserError("a Ray cluster needs ray, which is not installed", "pip install 'tunewise[ray]'")
    import ray
    import ray.exceptions
    import ray.util.queue
    import ray.util.scheduling_strategies

    return ray


def _connect(ray: ModuleType) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        if port.isdecimal():  # ray itself would ask for minutes before it gives up
            socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
        # what runs on the cluster says what matters through the queue; ray would copy every line of it to here
        ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster answers{f' at {address}' if address else ''}: {str(error).strip().splitlines()[0]}",
            "ray start --head starts one; without RAY_ADDRESS one of this machine alone is made",
        ) from None
