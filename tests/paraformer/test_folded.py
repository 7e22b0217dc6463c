"""Folded branches: equal numbers for inference, in as many operators that compute as one branch run serially."""

from __future__ import annotations

import functools
import io

import onnxruntime
import pytest
import torch

from paraformer.config import ParaFormerConfig
from paraformer.errors import ParaFormerError
from tests.paraformer.exported import computing, operators
from tests.paraformer.models import Feed, images, randomised, sequences, tokens, unpadded, vision
from tests.paraformer.test_fused import EXACT, NETWORKS


@pytest.mark.parametrize(("config", "feed"), NETWORKS)
def test_outputs_are_those_of_the_branches_one_by_one(config: ParaFormerConfig, feed: Feed) -> None:
    looped = randomised(config)
    torch.testing.assert_close(looped.fold()(*feed()), looped(*feed()), rtol=0, atol=EXACT)
    torch.testing.assert_close(looped.fuse().fold()(*feed()), looped(*feed()), rtol=0, atol=EXACT)


@functools.cache
def _operators(branches: int, depth: int) -> dict[str, int]:
    return operators(randomised(vision(branches, depth)).fold(), images())


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("branches", [2, 3, 8, 16])
def test_any_number_of_folded_branches_takes_as_many_operators_as_one(branches: int, depth: int) -> None:
    assert _operators(branches, depth) == _operators(1, depth)


@pytest.mark.parametrize("depth", [1, 2])
def test_as_many_operators_compute_as_in_the_serial_network_of_one_branch(depth: int) -> None:
    serial = operators(randomised(vision(1, depth)), images())
    assert computing(_operators(16, depth)) == computing(serial)


def test_padding_costs_further_blocks_one_operator_for_the_mask() -> None:
    serial = operators(randomised(tokens(1, 2)), sequences())
    folded = operators(randomised(tokens(8, 2)).fold(), sequences())
    assert folded["repeat"] == 1
    assert computing(folded) == computing(serial) + 1
    assert computing(operators(randomised(tokens(8, 2)).fold(), unpadded())) == computing(
        operators(randomised(tokens(1, 2)), unpadded())
    )


def test_the_batch_is_free_in_what_is_exported() -> None:
    looped = randomised(vision(3, 2))
    dynamic = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(looped.fold(), images(2), dynamic_shapes=dynamic).module()
    torch.testing.assert_close(exported(*images(5)), looped(*images(5)), rtol=0, atol=EXACT)


def test_no_gradient_reaches_a_folded_model_and_it_cannot_go_back() -> None:
    folded = randomised(vision(2)).fold()
    assert not folded(*images()).requires_grad
    assert folded.fold() is folded
    for back in (folded.fuse, folded.unfuse):
        with pytest.raises(ParaFormerError, match=r"^The norms of a folded Para-Former lie in its linears"):
            back()


@pytest.mark.parametrize("form", [pytest.param("fuse", marks=pytest.mark.slow), "fold"])
def test_onnx_of_a_form_computes_what_the_branches_do_for_any_batch(form: str) -> None:
    looped = randomised(vision(3, 2)).float()
    batch = ({0: torch.export.Dim("batch")},)
    (example,), (others,) = (tuple(value.float() for value in images(count)) for count in (2, 5))
    program = torch.onnx.export(getattr(looped, form)(), (example,), dynamo=True, dynamic_shapes=batch, verbose=False)
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: others.numpy()})
    torch.testing.assert_close(torch.from_numpy(outputs), looped(others).detach(), rtol=1e-4, atol=1e-4)
