"""Normalize-adds: a residual sum is an add of the state and something, however it is written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.models.capture import capture
from parallelize.models.clean import clean
from parallelize.models.program import Program
from passes.clean.normalize_adds import NormalizeAdds
from passes.fusion.fuse_width import FuseWidth
from passes.graph import operators as ops
from passes.registry import CLEANING
from passes.runner import run_passes
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import find_stacks
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Function,
    Mlp,
    fixed_graph_of,
    normal,
    plan_of,
    randomised,
    relative_error,
    run,
    text,
    tokens,
    wrong_metadata,
)
from tests.sampled import sampled

Combine = Callable[[Function, Tensor, Tensor], Tensor]

aten = torch.ops.aten


def _gated(gate: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return gate * left + (1 - gate) * right


SPELLINGS: dict[str, Combine] = {
    "sub": lambda m, x, f: x - f,
    "sub with alpha": lambda m, x, f: torch.sub(x, f, alpha=0.5),
    "the state subtracted": lambda m, x, f: f - x,
    "rsub": lambda m, x, f: torch.rsub(f, x),
    "add with alpha": lambda m, x, f: torch.add(x, f, alpha=0.5),
    "lerp": lambda m, x, f: torch.lerp(x, f, 0.3),
    "lerp with a stored weight": lambda m, x, f: torch.lerp(x, f, m.gain),
    "lerp with a gate": lambda m, x, f: torch.lerp(x, f, torch.sigmoid(m.gate(x))),
    "addcmul": lambda m, x, f: torch.addcmul(x, f, m.gain, value=0.7),
    "addcdiv": lambda m, x, f: torch.addcdiv(x, f, m.gain),
    "addmm": lambda m, x, f: torch.baddbmm(x, f, m.square.expand(x.shape[0], -1, -1), beta=0.9),
    "stack and sum": lambda m, x, f: torch.stack([x, f]).sum(0),
    "stack and mean": lambda m, x, f: torch.stack([x, f], -1).mean(-1),
    "stack of three": lambda m, x, f: torch.stack([f, x, torch.tanh(f)]).sum(0),
    "cat and sum": lambda m, x, f: torch.cat([x[None], f[None]]).sum(0),
    "cat, view and sum": lambda m, x, f: torch.cat([x, f]).view(2, *x.shape).sum(0),
    "cat of the last axis": lambda m, x, f: torch.cat([x, f], -1).view(*x.shape[:-1], 2, WIDTH).sum(-2),
    "weighted stack": lambda m, x, f: (torch.stack([x, f]) * m.gain[:2, None, None, None]).sum(0),
    "a sum negated": lambda m, x, f: -(-x - f),
    "scaled": lambda m, x, f: 0.9 * x + f,
    "scaled and divided": lambda m, x, f: x / 1.5 + 2 * f,
    "scaled by a stored number": lambda m, x, f: m.gain * x + f,
    "scaled by a gate": lambda m, x, f: x * torch.sigmoid(m.gate(x)) + f,
    "highway": lambda m, x, f: (1 - torch.sigmoid(m.gate(x))) * x + torch.sigmoid(m.gate(x)) * f,
    "negated": lambda m, x, f: -x + f,
    "copied": lambda m, x, f: x.clone().add_(f),
    "sums in sums": lambda m, x, f: (x - f) - torch.tanh(f),
    "scaled and two added": lambda m, x, f: (0.5 * x + f) + torch.tanh(f),
    "broadcast": lambda m, x, f: x + f.mean(1, keepdim=True),
    "a sum that keeps its axis": lambda m, x, f: torch.stack([x, f], 2).sum(2, keepdim=True).squeeze(2),
    "cat, unflatten and sum": lambda m, x, f: torch.cat([x, f], -1).unflatten(-1, (2, WIDTH)).sum(-2),
    "a stack times a column": lambda m, x, f: (torch.stack([x, f], -1) @ m.square[:2, :1]).squeeze(-1),
    "a linear of a stack": lambda m, x, f: F.linear(torch.stack([x, f], -1), m.square[:1, :2]).squeeze(-1),
    "a moved stack times a column": lambda m, x, f: (
        torch.stack([x, f]).permute(1, 2, 3, 0) @ m.square[:2, :1]
    ).squeeze(3),
    "a stack with a vector of weights": lambda m, x, f: (torch.stack([x, f], -1) * m.gain[:2]).sum(-1),
    "index_add": lambda m, x, f: x.index_add(1, torch.arange(TOKENS), f, alpha=0.5),
    "index_add to some": lambda m, x, f: x.index_add(1, torch.tensor([2, 0]), f[:, :2]),
    "scatter_add": lambda m, x, f: x.scatter_add(1, torch.arange(TOKENS)[None, :, None].expand(x.shape), f),
    "index_put": lambda m, x, f: aten.index_put(x, [None, torch.tensor([0, 0, 1])], f[:, :3], True),
    "where the sum is": lambda m, x, f: torch.where(x.mean(-1, keepdim=True) > 0, x + f, x),
    "where the state is": lambda m, x, f: torch.where(x.mean(-1, keepdim=True) > 0, x, 2 * f + x),
    "both by a gate": lambda m, x, f: _gated(m.gate(x), x + f, x),
    "lerp to the sum": lambda m, x, f: torch.lerp(x, x + f, 0.3),
    "lerp in lerp": lambda m, x, f: torch.lerp(x, torch.lerp(x, f, 0.5), m.gain),
    "a gate of the state": lambda m, x, f: _gated(torch.sigmoid(x * m.gain), f, x),
}


def _model(combine: Combine, blocks: int = 3) -> nn.Module:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "abcd"[:blocks]:
            x = combine(self, x, getattr(self, name)(x))
        return x

    terms = {name: Mlp() for name in "abcd"[:blocks]}
    parts = {"gate": nn.Linear(WIDTH, WIDTH), "gain": normal(WIDTH).abs() + 0.5, "square": normal(WIDTH, WIDTH)}
    return randomised(Function(forward, **terms, **parts))


@functools.cache
def _captured(name: str) -> tuple[nn.Module, Program]:
    model = _model(SPELLINGS[name])
    return model, capture(model, (tokens(),), dynamic=None)


@pytest.mark.parametrize("name", sampled([*SPELLINGS], 3))
def test_a_sum_in_another_spelling_becomes_a_term(name: str) -> None:
    model, program = _captured(name)
    written, record = run(program.module, NormalizeAdds(), tokens())
    assert len(record.matches) == 3
    assert record.error is not None
    assert record.error < 1e-12
    assert wrong_metadata(written, tokens()) == []
    found = find_stacks(written)
    assert [len(stack.terms) for stack in found.stacks] == [3]
    assert found.refused == ()
    assert relative_error(written(tokens()), model(tokens())) < 1e-12


@pytest.mark.parametrize("name", sampled([*SPELLINGS], 4))
def test_writing_the_sums_twice_is_writing_them_once(name: str) -> None:
    written, _ = run(_captured(name)[1].module, NormalizeAdds())
    again, record = run(written, NormalizeAdds())
    assert record.matches == ()
    assert text(again) == text(written)


# A sum of each kind: once written as an add, all are alike to what follows.
@pytest.mark.parametrize("name", sampled([*SPELLINGS], 8))
def test_the_terms_run_side_by_side_and_the_serial_schedule_is_the_cleaned_graph(name: str) -> None:
    graph = clean(_captured(name)[1], [tokens()])[0].module
    serial, _ = rewrite(graph, plan_of(3, [[[0]], [[1]], [[2]]]))
    assert torch.equal(serial(tokens()), graph(tokens()))
    wide, _ = rewrite(graph, plan_of(3, [[[0], [1]], [[2]]]))
    fused, _ = run_passes(wide, [FuseWidth(), *CLEANING], [tokens()])
    assert relative_error(fused(tokens()), wide(tokens())) < 1e-10


def test_a_subtracted_term_keeps_the_bits() -> None:
    graph = fixed_graph_of(_model(SPELLINGS["sub"]), tokens())
    written, _ = run(graph, NormalizeAdds())
    assert torch.equal(written(tokens()), graph(tokens()))


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.float32])
def test_an_add_in_a_wider_type_is_an_add_to_the_bit(narrow: torch.dtype) -> None:
    wide = torch.float64 if narrow == torch.float32 else torch.float32

    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "ab":
            x = (x.to(wide) + getattr(self, name)(x).to(wide)).to(narrow)
        return x

    model = randomised(Function(forward, a=Mlp(), b=Mlp())).to(narrow)
    graph = fixed_graph_of(model, tokens().to(narrow))
    written, record = run(graph, NormalizeAdds())
    assert len(record.matches) == 2
    assert [len(stack.terms) for stack in find_stacks(written).stacks] == [2]
    assert torch.equal(written(tokens().to(narrow)), graph(tokens().to(narrow)))


def test_a_stored_scale_of_the_state_stays_learned() -> None:
    model = _model(SPELLINGS["scaled by a stored number"])
    model.gain = nn.Parameter(model.gain)
    program, _ = clean(capture(model, (tokens(),)), [tokens()])
    constants = [name for name, _ in program.module.named_parameters() if name.startswith("constant")]
    assert constants


@pytest.mark.parametrize("name", ["sub", "the state subtracted", "rsub", "add with alpha"])
def test_a_weight_that_is_transposed_or_multiplied_before_its_use_is_a_parameter_of_the_term(name: str) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for weight in (self.a.t(), self.b @ self.a, (self.a + torch.eye(WIDTH, dtype=x.dtype)).t()):
            x = SPELLINGS[name](self, x, torch.relu(x @ weight))
        return x

    model = randomised(Function(forward, a=normal(WIDTH, WIDTH), b=normal(WIDTH, WIDTH)))
    written, record = run(fixed_graph_of(model, tokens()), NormalizeAdds(), tokens())
    assert len(record.matches) == 3
    assert [len(stack.terms) for stack in find_stacks(written).stacks] == [3]


def test_numbers_that_no_parameter_holds_are_no_weights() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x - x @ torch.ones(WIDTH, WIDTH, dtype=x.dtype)
        return x

    _, record = run(fixed_graph_of(Function(forward).eval(), tokens()), NormalizeAdds())
    assert record.matches == ()


def test_a_sum_that_is_alone_on_its_state_is_left_as_it_is() -> None:
    graph = fixed_graph_of(_model(SPELLINGS["sub"], blocks=1), tokens())
    written, record = run(graph, NormalizeAdds())
    assert record.matches == ()
    assert [skip.reason for skip in record.skipped] == ["no other term is next to sub"]
    assert [refusal.node for refusal in find_stacks(written).refused] == ["sub"]


def test_operators_in_their_elements_are_no_residual_sums() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "ab":
            x = x + getattr(self, name)(_norm(_turned(x, self.gain)))
        return _norm(x)

    model = Function(forward, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH), gain=normal(WIDTH))
    graph = fixed_graph_of(randomised(model), tokens())
    written, record = run(graph, NormalizeAdds())
    assert record.matches == record.skipped == ()
    assert find_stacks(written).refused == ()


def _norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def _turned(x: Tensor, gain: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return x * gain.cos() + torch.cat([-right, left], -1) * gain.sin()


def test_a_copy_that_lies_otherwise_in_memory_stays() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for name in "ab":
            x = x.contiguous() + getattr(self, name)(x.transpose(1, 2)).transpose(1, 2)
        return x

    graph = fixed_graph_of(randomised(Function(forward, a=Mlp(), b=Mlp())), tokens())
    written, _ = run(graph, NormalizeAdds())
    assert text(written) == text(graph)


def test_steps_of_a_chain_are_linked_through_what_was_written_before() -> None:
    written, _ = run(fixed_graph_of(_model(SPELLINGS["sums in sums"], blocks=4), tokens()), NormalizeAdds())
    (stack,) = find_stacks(written).stacks
    assert all(left.result is right.skip for left, right in pairwise(stack.terms))
    assert all(_is_add(term.add) for term in stack.terms)


def _is_add(node: fx.Node) -> bool:
    return node.target == ops.ADD and not node.kwargs
