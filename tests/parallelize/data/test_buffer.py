"""What is held comes back as it was wherever it lies: on a device, in memory, in a file."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parallelize.data import buffer as buffers
from parallelize.data.buffer import HELD, Buffer
from parallelize.machine import device as devices
from parallelize.machine.device import CPU
from tests.parallelize.other_device import OTHER, OtherDevice


def _inferred() -> Tensor:
    with torch.inference_mode():
        return torch.randn(3, 4) + 1


VALUES: dict[str, Callable[[], Tensor]] = {
    "float64": lambda: torch.randn(3, 4, dtype=torch.float64),
    "bfloat16": lambda: torch.randn(3, 5).bfloat16(),
    "bool": lambda: torch.randn(7) > 0,
    "int64": lambda: torch.arange(6).reshape(2, 3),
    "a number": lambda: torch.tensor(3.5),
    "nothing": lambda: torch.zeros(0, 4),
    "transposed": lambda: torch.randn(3, 4).T,
    "a part": lambda: torch.randn(100, 4)[10:12],
    "expanded": lambda: torch.randn(4).expand(50, 4),
    "of an inference": _inferred,
    "not finite": lambda: torch.tensor([torch.nan, torch.inf, -0.0]),
}


@pytest.mark.parametrize("bound", [0, 2**20], ids=["file", "memory"])
@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_it_was(name: str, bound: int) -> None:
    value, buffer = VALUES[name](), Buffer(bound)
    kept = buffer.keep(value)
    assert (buffer.in_file, buffer.held.get(CPU, 0)) == ((value.nbytes, 0) if bound == 0 else (0, value.nbytes))
    torch.testing.assert_close(kept.value, value, rtol=0, atol=0, equal_nan=True)
    assert (kept.value.dtype, kept.value.shape, kept.nbytes) == (value.dtype, value.shape, value.nbytes)


def test_memory_is_taken_up_to_the_bound_and_the_rest_goes_into_the_file() -> None:
    buffer = Buffer(int(1000 / HELD))
    kept = [buffer.keep(torch.full((100,), float(number))) for number in range(5)]
    assert (buffer.held[CPU], buffer.in_file) == (800, 1200)
    assert [float(one.value[3]) for one in kept] == [0, 1, 2, 3, 4]


def test_what_may_fill_a_part_of_the_memory_alone_goes_into_the_file_beyond_that() -> None:
    buffer = Buffer(int(1000 / HELD))
    lasting = [buffer.keep(torch.ones(100), share=0.5) for _ in range(2)]
    assert (buffer.held[CPU], buffer.in_file) == (400, 400)
    passing = buffer.keep(torch.zeros(100))
    assert (buffer.held[CPU], buffer.in_file) == (800, 400)
    assert [float(one.value[3]) for one in (*lasting, passing)] == [1, 1, 0]


def test_room_is_given_back_when_nobody_has_a_value_any_more() -> None:
    buffer = Buffer(int(1000 / HELD))
    kept = [buffer.keep(torch.zeros(100)) for _ in range(5)]
    kept[0] = kept[4] = buffer.keep(torch.ones(100))
    del kept[1:4]
    gc.collect()
    assert (buffer.held[CPU], buffer.in_file) == (0, 400)
    kept.append(buffer.keep(torch.zeros(250)))
    assert (buffer.held[CPU], buffer.in_file) == (1000, 400)


@pytest.mark.parametrize("bound", [0, 2**20], ids=["file", "memory"])
def test_another_value_takes_the_place_of_one(bound: int) -> None:
    buffer = Buffer(bound)
    kept = buffer.keep(torch.zeros(4, 3))
    for step in range(3):
        value = kept.value
        value += step
        kept.put(value)
    kept.put(kept.value.T.contiguous().T)
    assert torch.equal(kept.value, torch.full((4, 3), 3.0))
    assert buffer.in_file + buffer.held.get(CPU, 0) == 48


def test_a_small_part_of_something_large_does_not_hold_all_of_it() -> None:
    large = torch.randn(1000, 4)
    kept, whole = Buffer().keep(large[:3]), Buffer().keep(large)
    assert kept.value.untyped_storage().nbytes() == 48
    assert whole.value.data_ptr() == large.data_ptr()


@pytest.mark.parametrize(("free", "homes"), [(None, (240, 0, 0)), (600, (120, 128, 0)), (40, (0, 256, 0))])
def test_what_does_not_fit_on_a_device_goes_to_the_host(
    free: int | None, homes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of what is free there is taken; the host counts pinned memory, which comes in powers of two."""
    with OtherDevice():
        buffer = Buffer(2**10)
        monkeypatch.setattr(
            devices, "free_memory", lambda device: None if free is None else free - buffer.held.get(OTHER, 0)
        )
        values = [torch.randn(30, device=OTHER) for _ in range(2)]
        kept = [buffer.keep(value) for value in values]
        assert (buffer.held.get(OTHER, 0), buffer.held.get(CPU, 0), buffer.in_file) == homes
        assert all(torch.equal(one.value, value) for one, value in zip(kept, values, strict=True))
        assert {one.value.device for one in kept} == {one.device for one in kept} == {OTHER}


def test_what_fits_neither_on_a_device_nor_on_the_host_goes_to_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_memory", lambda _device: 0)
    with OtherDevice():
        buffer, value = Buffer(0), torch.randn(30, device=OTHER)
        kept = buffer.keep(value)
        kept.put(value * 2)
        assert buffer.in_file == 120
        assert torch.equal(kept.value, value * 2)
        assert kept.value.device == OTHER


def test_the_bound_also_says_how_large_the_values_of_a_batch_may_be() -> None:
    assert Buffer().elements == 2**25
    assert Buffer(2**30).elements == 2**24
    assert Buffer(1).elements == 1
    assert buffers.BOUND == 2**31
