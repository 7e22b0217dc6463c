"""How artefacts are loaded: on the first GPU only, and options for code are for code."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallelize.backends.runner_options import RunnerOptions
from parallelize.data import InputSpec
from passes.errors import ParallelizeError
from tests.parallelize.small_models import vision

GIVEN = RunnerOptions(
    weights="w.pt", weights_key="ema", input_specs=(InputSpec("x", (1, 4)),), allow_pickle=True, inputs=Path("data.npz")
)


@pytest.mark.parametrize("device", ["cuda:1", "cuda:07", "cuda:10"])
def test_a_later_gpu_is_refused_with_the_way_to_choose_it(device: str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        RunnerOptions(device=device)
    assert str(caught.value) == f"Networks are compared and timed on the first GPU, not on {device!r}."
    assert "CUDA_VISIBLE_DEVICES" in caught.value.hint


@pytest.mark.parametrize("device", [None, "cpu", "cuda", "cuda:0", "cuda:00", "elsewhere"])
def test_any_other_device_is_left_to_who_opens_it(device: str | None) -> None:
    assert RunnerOptions(device=device).device == device


def test_a_reference_to_code_is_loaded_with_all_options() -> None:
    source = GIVEN.loading("net.py:make")
    assert (source.model, source.inputs, source.weights, source.weights_key) == (
        "net.py:make",
        Path("data.npz"),
        "w.pt",
        "ema",
    )
    assert (source.input_specs, source.allow_pickle) == (GIVEN.input_specs, True)


def test_what_knows_its_weights_and_shapes_is_loaded_without_them() -> None:
    for model in ("model.pt2", vision()):
        source = GIVEN.loading(model)
        assert (source.model, source.weights, source.input_specs) == (model, None, ())
        assert source.inputs == Path("data.npz")
