"""Arguments by place and name become tensors in the right dtypes, and each mistake is told by its argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from parallelize.conversion.loading.interface import InputError, Interface
from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.returned import Returned
from passes.errors import ParallelizeError

IDS = TensorSpec("ids", ("batch", "tokens"), torch.int64)
X = TensorSpec("x", ("batch", 3), torch.float32)
MASK = TensorSpec("mask", ("2*batch",), torch.bool)
NARROW = TensorSpec("narrow", (2,), torch.int8)
INTERFACE = Interface("net", (IDS, X, MASK, NARROW), (X,), Returned("tensor", ("x",)))


def values(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "ids": torch.ones(4, 5, dtype=torch.int64),
        "x": torch.ones(4, 3),
        "mask": torch.ones(8, dtype=torch.bool),
        "narrow": torch.ones(2, dtype=torch.int8),
    }
    return {**plain, **changes}


def test_places_names_and_arrays_are_the_same() -> None:
    expected = list(values().values())
    arrays = {name: value.numpy() for name, value in values().items()}
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (tuple(expected), {}),
        ((), dict(reversed(values().items()))),
        (tuple(expected[:2]), {"narrow": expected[3], "mask": expected[2], "labels": None}),
        ((), arrays),
    ]
    for args, kwargs in calls:
        found = INTERFACE.bound(args, kwargs)
        assert all(map(torch.equal, found, expected))
        assert [value.dtype for value in found] == [spec.dtype for spec in INTERFACE.inputs]


WIDE = {
    "x": [np.ones((4, 3)), torch.ones(4, 3, dtype=torch.uint8), torch.ones(4, 3).half(), np.ones((4, 3), ">f4")],
    "ids": [np.ones((4, 5), np.int32), torch.ones(4, 5, dtype=torch.bool), np.ones((4, 5), np.uint16)],
    "narrow": [torch.tensor([-128, 127]), np.ones(4, np.int8)[::-2]],
}


@pytest.mark.parametrize("name", WIDE)
def test_a_cast_that_changes_no_meaning_is_made(name: str) -> None:
    spec = next(spec for spec in INTERFACE.inputs if spec.name == name)
    for value in WIDE[name]:
        found = dict(
            zip([spec.name for spec in INTERFACE.inputs], INTERFACE.bound((), values(**{name: value})), strict=True)
        )
        assert found[name].dtype == spec.dtype


def test_an_array_that_may_not_be_written_to_is_copied() -> None:
    array = np.ones((4, 3), np.float32)
    array.flags.writeable = False
    found = INTERFACE.bound((), values(x=array))[1]
    found.add_(1)
    assert array.max() == 1


REFUSED: dict[str, dict[str, Any]] = {
    "net has no argument 'y'": values(y=torch.ones(1)),
    "net was called without 'x'": values(x=None),
    "'x' is a list": values(x=[[1.0, 2.0, 3.0]]),
    "'x' is an array of <U1": values(x=np.array(["a"])),
    "'x' of net is complex64, not float32": values(x=torch.ones(4, 3, dtype=torch.complex64)),
    "'ids' of net is float32, not int64": values(ids=torch.ones(4, 5)),
    "'mask' of net is int64, not bool": values(mask=torch.ones(8, dtype=torch.int64)),
    "'narrow' of net has values from -1 to 200, which int8 does not hold": values(narrow=torch.tensor([-1, 200])),
    "'x' of net has the shape 3, not batchx3": values(x=torch.ones(3)),
    "'x' of net has the shape 4x2, not batchx3": values(x=torch.ones(4, 2)),
    "'mask' of net has the shape 7, not 2\\*batch": values(mask=torch.ones(7, dtype=torch.bool)),
    "The dimension 'batch' is 5 in 'x' and 4 in another argument of net": values(x=torch.ones(5, 3)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_wrong_argument_is_named_in_one_sentence(message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        INTERFACE.bound((), REFUSED[message])
    assert caught.value.hint
    assert isinstance(caught.value, (ParallelizeError, TypeError))


def test_too_many_and_twice_are_refused() -> None:
    every = tuple(values().values())
    with pytest.raises(InputError, match="called with 5 positional arguments"):
        INTERFACE.bound((*every, every[0]), {})
    with pytest.raises(InputError, match="got 'ids' by its place and by its name"):
        INTERFACE.bound(every[:1], values())
