"""Every branch that is present is fused or has one reason why not, and the runner sees to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.errors import PassError
from passes.fusion.fuse_width import FuseWidth
from passes.runner import Pass, PassRecord, PassResult, Skip, run_passes
from tests.passes.models import WIDTH, Function, Mlp, fixed_graph_of, mlps, randomised, relative_error, run, tokens


@dataclass(frozen=True)
class Result(Pass):
    """Changes nothing and says what it is told to say."""

    result: PassResult
    name: ClassVar[str] = "result"
    exact: ClassVar[bool] = True

    def apply(self, module: fx.GraphModule) -> PassResult:
        return self.result


COMPLETE = PassResult(("a",), (Skip("b", "why"),), ("a", "b"), ("a",))
INCOMPLETE = {
    "no reason": PassResult(present=("a",)),
    "one of two": PassResult(present=("a", "b"), changed=("b",)),
    "changed and left": PassResult(skipped=(Skip("a", "why"),), present=("a",), changed=("a",)),
}


def test_the_records_of_a_pass_count_what_was_present_and_changed() -> None:
    _, (record,) = run_passes(mlps(1)[1], [Result(COMPLETE)])
    assert (record.present, record.changed) == (("a", "b"), ("a",))


@pytest.mark.parametrize("result", INCOMPLETE.values(), ids=INCOMPLETE.keys())
def test_the_runner_refuses_a_pass_that_leaves_something_without_a_reason(result: PassResult) -> None:
    with pytest.raises(PassError, match="result neither changed a nor gave one reason"):
        run_passes(mlps(1)[1], [Result(result)])


def _record(function: Callable[..., Any], **parts: nn.Module) -> PassRecord:
    graph = fixed_graph_of(randomised(Function(function, **parts)), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    for actual, expected in zip(_leaves(fused(tokens())), _leaves(graph(tokens())), strict=True):
        assert relative_error(actual, expected) < 1e-10
    return record


def _leaves(outputs: Any) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def _reasons(record: PassRecord) -> dict[str, str]:
    return {skip.node: skip.reason for skip in record.skipped}


def test_a_serial_network_has_no_branches() -> None:
    _, record = run(mlps(3)[1], FuseWidth())
    assert record.present == ()


def test_all_branches_of_a_fused_sum_are_present_and_changed() -> None:
    record = _record(lambda s, x: x + s.a(x) + s.b(x) + s.c(x), a=Mlp(), b=Mlp(), c=Mlp())
    assert len(record.present) == 3
    assert record.changed == record.present


def test_recurrences_beside_each_other_have_a_reason() -> None:
    parts = {name: nn.GRU(WIDTH, WIDTH, batch_first=True) for name in "ab"}
    record = _record(lambda s, x: x + s.a(x)[0] + s.b(x)[0], **parts)
    assert record.changed == ()
    assert set(_reasons(record)) == set(record.present)
    assert all("is a recurrence, which has no wide form" in reason for reason in _reasons(record).values())


def test_pooling_beside_pooling_is_fused_or_has_a_reason() -> None:
    def pooled(norm: nn.Module, x: Tensor) -> Tensor:
        return F.avg_pool1d(norm(x), 3, 1, 1)

    norms = {name: nn.LayerNorm(WIDTH) for name in "ab"}
    record = _record(lambda s, x: x + pooled(s.a, x) + pooled(s.b, x), **norms)
    assert len(record.present) == 2
    assert len(record.changed) + len(record.skipped) == 2


def test_norms_of_different_values_are_not_put_together() -> None:
    record = _record(lambda s, x: s.a(x) + s.b(torch.exp(x)), a=nn.LayerNorm(WIDTH), b=nn.LayerNorm(WIDTH))
    assert record.changed == ()
    assert all("holds no matrix product" in reason for reason in _reasons(record).values())


def test_embeddings_and_gates_that_are_added_are_no_branches() -> None:
    record = _record(lambda s, x: torch.exp(x) * x + torch.sin(x) + x)
    assert record.present == ()


def test_an_unlike_branch_says_how_it_differs() -> None:
    record = _record(lambda s, x: x + torch.tanh(s.a(x)) + s.b(x), a=nn.Linear(WIDTH, WIDTH), b=Mlp())
    assert record.changed == ()
    assert all("is not computed as" in reason for reason in _reasons(record).values())
    assert len(record.skipped) == len(record.present) == 2


def test_two_paths_that_meet_without_a_state_are_no_branches() -> None:
    record = _record(lambda s, x: s.a(x) + s.b(x), a=Mlp(), b=nn.Linear(WIDTH, WIDTH))
    assert len(record.changed) in (0, 2)
    assert record.skipped == ()
