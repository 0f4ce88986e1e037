"""What a process may take of this machine: free memory and cores, within the limits of a container."""

import os

import pytest

from tunewise import machine
from tunewise.engine import trunk_store


@pytest.fixture
def container(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CONTAINER", tmp_path)

    def limits(**files):
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)

    return limits


def test_a_container_has_what_its_limit_leaves_and_caches_give_way(container):
    outside = machine.free_memory()
    container(memory_max="1000000", memory_current="600000", memory_stat="anon 5\nfile 100000")
    assert machine.free_memory() == 500_000 < outside
    container(memory_stat="anon 5\nfile 100000\nshmem 30000\n")
    assert machine.free_memory() == 470_000, "what lies in /dev/shm does not give way"
    container(memory_current="1200000")
    assert machine.free_memory() == 0
    container(memory_max="max\n")
    assert machine.free_memory() > 500_000


def test_what_is_kept_of_a_trunk_keeps_to_the_limit_of_a_container(container, monkeypatch):
    monkeypatch.delenv("TUNEWISE_TRUNK_MEMORY_GB", raising=False)
    container(memory_max="1000000", memory_current="600000", memory_stat="file 100000")
    assert trunk_store.caps()[0] == 125_000


def test_a_system_that_does_not_tell_its_memory(container, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_MEMORY_OF_LINUX", tmp_path / "none")
    assert machine.free_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(os, "sysconf", lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert machine.free_memory() is None
    monkeypatch.delenv("TUNEWISE_TRUNK_MEMORY_GB", raising=False)
    assert trunk_store.caps()[0] == 1 << 30


def test_cores_are_the_fewest_of_machine_binding_and_quota(container, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert machine.n_cores() == 6
    container(cpu_max="250000 100000\n")
    assert machine.n_cores() == 3
    container(cpu_max="max 100000")
    assert machine.n_cores() == 6
    container(cpu_max="10000 100000")
    assert machine.n_cores() == 1
