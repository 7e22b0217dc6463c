"""What is inserted for all branches: once where groups share it, gone where an attempt fails, stored where read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from passes.fusion.emitter import Branches, Emitter
from passes.fusion.layout import Apart, CannotLiftError, Lifted, Normed, Pieces, Shared, Stored, Wide

aten = torch.ops.aten


def _emitter(shared: dict[Any, fx.Node] | None = None) -> tuple[Emitter, fx.Node, fx.Node]:
    """An emitter for two branches, sin and cos of an input that the graph returns; the input, and the first branch."""
    graph = fx.Graph()
    source = graph.placeholder("source")
    ends = [graph.call_function(target, (source,)) for target in (aten.sin.default, aten.cos.default)]
    output = graph.output(source)
    branches = Branches(tuple((source, end) for end in ends), tuple((end,) for end in ends), frozenset(ends))
    return Emitter(fx.GraphModule(nn.Module(), graph), branches, output, shared or {}), source, ends[0]


def _targets(emitter: Emitter) -> list[object]:
    return [node.target for node in emitter.module.graph.nodes]


def test_a_node_of_the_first_branch_tells_those_of_all() -> None:
    emitter, source, end = _emitter()
    assert emitter.column(source) == (source, source)
    assert [node.target for node in emitter.column(end)] == [aten.sin.default, aten.cos.default]


def test_what_groups_share_is_inserted_once() -> None:
    emitter, source, _ = _emitter()
    other = Emitter(emitter.module, emitter.branches, emitter.before, emitter.shared)
    assert emitter.emit_once(aten.exp.default, (source,)) is other.emit_once(aten.exp.default, (source,))
    assert emitter.emit(aten.exp.default, (source,)) is not emitter.emit(aten.exp.default, (source,))
    assert _targets(emitter).count(aten.exp.default) == 3


def test_what_failed_is_taken_out_again_and_may_be_inserted_anew() -> None:
    emitter, source, _ = _emitter()
    before = _targets(emitter)
    scale = emitter.store("scale", lambda: torch.ones(1))
    gone = emitter.emit_once(aten.mul.Tensor, (source, scale))
    emitter.abandon()
    assert _targets(emitter) == before
    assert emitter.stored == []
    assert emitter.emit_once(aten.mul.Tensor, (source, 2.0)) is not gone


def test_what_was_inserted_before_a_failure_stays() -> None:
    emitter, source, _ = _emitter()
    kept = emitter.emit(aten.exp.default, (source,))
    inserted = len(emitter.created)
    emitter.emit(aten.neg.default, (emitter.emit(aten.tanh.default, (kept,)),))
    emitter.abandon(inserted)
    assert emitter.created == [kept]
    assert aten.tanh.default not in _targets(emitter)


def test_parameters_are_computed_where_they_are_read() -> None:
    def unread() -> Tensor:
        raise AssertionError

    emitter, source, _ = _emitter()
    emitter.store("unread", unread)
    read = emitter.store("read", lambda: torch.full((2,), 3.0))
    emitter.before.args = (emitter.emit(aten.mul.Tensor, (source, read)),)
    emitter.commit()
    assert torch.equal(fx.Interpreter(emitter.module).run(torch.ones(2)), torch.full((2,), 3.0))
    assert read.meta["val"].shape == (2,)
    assert len(list(emitter.module.parameters())) == 1


def test_an_attempt_begins_with_no_moves_and_nothing_apart() -> None:
    emitter, _, end = _emitter()
    emitter.moves, emitter.apart = 3, {end: CannotLiftError("no")}
    emitter.begin({end: 2})
    assert (emitter.moves, emitter.apart, emitter.outers) == (0, {}, {end: 2})


def _vectors(tensor: Tensor) -> tuple[Tensor, Tensor]:
    return tensor, tensor


def test_one_tensor_is_the_node_of_its_value() -> None:
    emitter, source, end = _emitter()
    for value in (Shared(source), Wide(source, -1, 1, (4,)), Pieces(source, -1, 1)):
        assert emitter.node(value, end) is source


@pytest.mark.parametrize(
    ("make", "held"),
    [
        (lambda node: Apart((node, node)), "a value that is computed in each branch"),
        (lambda _: Stored(_vectors(torch.ones(4))), "a parameter that differs between the branches"),
        (
            lambda node: Normed(Shared(node), _vectors(torch.ones(4)), (None, None)),
            "a normalised state that differs between the branches",
        ),
    ],
    ids=["apart", "stored", "normed"],
)
def test_values_in_no_single_tensor_are_refused_with_what_holds_them(make: Any, held: str) -> None:
    emitter, source, end = _emitter()
    value: Lifted = make(source)
    with pytest.raises(CannotLiftError, match=rf"^sin_default \(aten.sin.default\) reads {held}$"):
        emitter.node(value, end)
