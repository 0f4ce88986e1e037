"""The table of devices, this machine, and memory alone."""

import os

import pytest
import torch

from tunewise.engine.backend import backend
from tunewise.errors import UserError
from tunewise.planning import devices
from tunewise.planning.devices import COPY_SHARE, MEMORY_SHARE, NAMES, PRODUCT_SHARE, device_named, larger_than


def test_a_card_is_what_its_data_sheet_says_less_what_no_program_gets() -> None:
    card = device_named("a100-80")
    assert card.memory_bytes == int(MEMORY_SHARE * 80 * 2**30)
    assert card.flops[torch.bfloat16] == pytest.approx(PRODUCT_SHARE * 312e12)
    assert card.flops[torch.float32] == pytest.approx(PRODUCT_SHARE * 19.5e12)
    assert card.bytes_per_second == pytest.approx(COPY_SHARE * 2039e9)
    assert (card.type, card.dtype, card.is_here) == ("cuda", torch.bfloat16, False)


def test_names_are_read_as_people_write_them() -> None:
    assert device_named("RTX 4090") == device_named("rtx4090")
    assert device_named("A100_80") == device_named("a100-80")


def test_a_card_without_bfloat16_takes_a_base_in_float32() -> None:
    assert device_named("t4").dtype == torch.float32
    assert device_named("t4").flops_of(torch.bfloat16) == device_named("t4").flops[torch.float32]


@pytest.mark.parametrize(
    ("told", "n_bytes", "name"),
    [("24GB", 24 * 10**9, "24 GB"), ("24 gib", 24 * 2**30, "24 GiB"), ("0.5TB", 5 * 10**11, "0.5 TB")],
)
def test_memory_alone_is_a_device_whose_speed_is_not_known(told: str, n_bytes: int, name: str) -> None:
    found = device_named(told)
    assert (found.memory_bytes, found.name, dict(found.flops)) == (n_bytes, name, {})


def test_this_machine_has_the_memory_that_is_free_and_the_speeds_that_were_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TUNEWISE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = device_named("auto")
    measured = backend()
    assert here.is_here
    assert here.flops[torch.bfloat16] == pytest.approx(1e9 * measured.gflops["bfloat16"])
    assert here.bytes_per_second == pytest.approx(1e9 * measured.gigabytes_per_second)
    assert 0 < here.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_gpu_that_is_not_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWISE_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="there is no device cuda: torch finds no GPUs here"):
        device_named("auto")
    assert device_named("cpu").is_here


def test_a_system_that_does_not_tell_its_memory_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_memory", lambda: None)
    with pytest.raises(UserError, match="does not tell how much memory") as caught:
        device_named("cpu")
    assert "--device 16GB" in caught.value.hint


def test_a_device_that_is_none_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no device named 'rtx4900'") as caught:
        device_named("rtx4900")
    assert "did you mean 'rtx4090'?" in caught.value.hint
    assert "24GB" in caught.value.hint
    for wrong in ("GB", "-3GB", "24", "0GB"):
        with pytest.raises(UserError):
            device_named(wrong)


def test_the_smallest_device_that_holds_so_much_comes_first() -> None:
    assert larger_than(45 * 10**9)[0] in ("a40", "a6000", "l40s")
    assert larger_than(10**13) == []
    assert set(larger_than(0)) == set(NAMES) - {"auto", "cpu"}
