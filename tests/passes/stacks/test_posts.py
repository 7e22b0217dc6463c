"""Norms and activations after the add belong to the term, whole or written out; what is neither is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.fuse_width import FuseWidth
from passes.plan import Level, Plan, StackPlan
from passes.registry import CLEANING
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.stacks.accounting import unaccounted
from passes.stacks.find import Refusal, Stack, Stacks, find_stacks
from tests.passes.eager import after_levels
from tests.passes.models import (
    WIDTH,
    Function,
    Residual,
    fixed_graph_of,
    normal,
    randomised,
    relative_error,
    run,
    scheduled,
    tokens,
    wide_operators,
    wrong_metadata,
)
from tests.sampled import sampled

Norm = Callable[[Tensor, Tensor, Tensor], Tensor]
SERIAL = [[[0]], [[1]], [[2]], [[3]]]
PAIRS = [[[0], [1]], [[2], [3]]]


def _mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def _rms_in_another_dtype(x: Tensor, w: Tensor, _: Tensor) -> Tensor:
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return w * wide.type_as(x)


def _layer_norm_in_steps(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    centred = x - _mean(x).expand_as(x)
    return w * (centred / torch.sqrt(_mean(centred * centred) + 1e-5)) + b


def _layer_norm_by_var_mean(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    spread, centre = torch.var_mean(x, -1, keepdim=True, unbiased=False)
    return (x - centre) * torch.rsqrt(spread + 1e-5) * (1 + w) + b


WRITTEN_OUT: dict[str, Norm] = {
    "rms": lambda x, w, b: w * (x * torch.rsqrt(_mean(x.pow(2)) + 1e-6)),
    "rms without gain": lambda x, w, b: x / (_mean(x * x) + 1e-6).sqrt(),
    "rms in another dtype": _rms_in_another_dtype,
    "layer norm by var": lambda x, w, b: (x - _mean(x)) / torch.sqrt(x.var(-1, False, True) + 1e-5) * w + b,
    "layer norm by mean of squares": lambda x, w, b: (
        (x - _mean(x)) / torch.sqrt(_mean(x * x) - _mean(x) ** 2 + 1e-5) * w + b
    ),
    "layer norm by squared distance": lambda x, w, b: (
        (x - _mean(x)) * torch.rsqrt(_mean((x - _mean(x)) ** 2) + 1e-5) * w + b
    ),
    "layer norm by std": lambda x, w, b: w * (x - _mean(x)) / (x.std(-1, keepdim=True) + 1e-6) + b,
    "layer norm in steps": _layer_norm_in_steps,
    "layer norm by var_mean": _layer_norm_by_var_mean,
    "norm": lambda x, w, b: x / (x.norm(dim=-1, keepdim=True) + 1e-6),
    "scaled norm": lambda x, w, b: w[0] * F.normalize(x, dim=-1),
    "normalize": lambda x, w, b: F.normalize(x, dim=-1),
    "softmax": lambda x, w, b: torch.softmax(x, -1),
    "silu": lambda x, w, b: x * torch.sigmoid(x),
}


class Post(nn.Module):
    """A norm as a function of the state, a gain and a shift."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm
        self.gain, self.shift = (nn.Parameter(torch.ones(WIDTH)) for _ in "wb")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x, self.gain, self.shift)


def _network(norm: Norm, every: int) -> Residual:
    """Four terms, with a norm after each or after each second one."""
    terms = [nn.Sequential(nn.Linear(WIDTH, 6), nn.GELU(), nn.Linear(6, WIDTH)) for _ in range(4)]
    posts = [Post(norm) if number % every == every - 1 else nn.Identity() for number in range(4)]
    model = Residual(terms, posts, head=nn.Linear(WIDTH, 3))
    randomised(model)
    return model


def _cleaned(model: nn.Module, *example: Tensor) -> fx.GraphModule:
    inputs = example or (tokens(),)
    return run_passes(fixed_graph_of(model, *inputs), CLEANING, inputs)[0]


def _only(found: Stacks) -> Stack:
    (stack,) = found.stacks
    assert found.refused == ()
    return stack


@pytest.mark.parametrize("norm", sampled(WRITTEN_OUT, 5))
def test_a_norm_written_out_after_each_term_is_scheduled_and_fused_as_a_whole_one_is(norm: Norm) -> None:
    model, x = _network(norm, every=1), tokens()
    graph = _cleaned(model)
    stack = _only(find_stacks(graph))
    assert unaccounted(graph) == ()
    assert [bool(term.norms) for term in stack.terms] == [True] * 4
    assert len({term.signature for term in stack.terms}) == 1
    assert torch.equal(scheduled(graph, 4, SERIAL)(x), graph(x))

    fused, record = run(scheduled(graph, 4, PAIRS), FuseWidth(), x)
    assert (len(record.matches), record.skipped) == (2, ())
    assert wide_operators(fused)["linear"] == 3  # the first of each level, and the head
    assert relative_error(fused(x), model.head(after_levels(model.steps(), PAIRS, x))) < 1e-10
    assert wrong_metadata(fused, x) == []


@pytest.mark.parametrize("name", ["rms", "layer norm by squared distance", "layer norm in steps", "normalize"])
def test_a_norm_written_out_after_each_block_belongs_to_its_last_term(name: str) -> None:
    graph = _cleaned(_network(WRITTEN_OUT[name], every=2))
    stack = _only(find_stacks(graph))
    assert [bool(term.norms) for term in stack.terms] == [False, True] * 2
    assert stack.blocks == ((0, 1), (2, 3))
    assert torch.equal(scheduled(graph, 4, SERIAL)(tokens()), graph(tokens()))


@pytest.mark.parametrize("name", ["rms", "layer norm in steps", "scaled norm"])
def test_a_level_shares_a_norm_that_is_written_out(name: str) -> None:
    model, x = _network(WRITTEN_OUT[name], every=1), tokens()
    levels = tuple(Level(tuple(tuple(chain) for chain in level), shared=True) for level in PAIRS)
    shared, _ = run(_cleaned(model), ApplyPlan(Plan((StackPlan(4, levels),))))
    state = x
    for first, last in ((0, 1), (2, 3)):
        state = model.posts[last](state + model.terms[first](state) + model.terms[last](state))
    assert relative_error(shared(x), model.head(state)) < 1e-10


def test_terms_whose_norms_are_written_otherwise_have_other_signatures() -> None:
    model = _network(WRITTEN_OUT["rms"], every=1)
    model.posts[1] = model.posts[3] = randomised(
        Post(lambda x, w, b: w * (w * torch.rsqrt(_mean(x.pow(2)) + 1e-6) * x))
    )
    stack = _only(find_stacks(_cleaned(model)))
    assert len({term.signature for term in stack.terms}) == 2


def _refused(forward: Callable[[Function, Tensor], Tensor]) -> tuple[list[int], tuple[Refusal, ...]]:
    found = find_stacks(
        fixed_graph_of(randomised(Function(forward, **{n: nn.Linear(WIDTH, WIDTH) for n in "abc"})), tokens())
    )
    return [len(stack.terms) for stack in found.stacks], found.refused


def test_an_operator_between_two_terms_that_is_no_norm_is_refused_by_its_name() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = (x + self.a(x)).cumsum(1)
        y: Tensor = x + self.b(x)
        return y

    reason = "cumsum (aten.cumsum.default) between add and cumsum, the next state, is no norm or activation"
    assert _refused(forward) == ([1, 1], (Refusal("cumsum", reason),))


def test_a_product_that_leaves_a_term_alone_is_refused_by_its_name() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = self.c(x + self.a(x))
        y: Tensor = x + self.b(x)
        return y

    reason = "linear_1 (aten.linear.default) between add and linear_1, the next state, is no norm or activation"
    assert _refused(forward) == ([1, 1], (Refusal("linear_1", reason),))


def test_a_factor_that_is_no_parameter_is_refused_with_its_name() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.c(x))
        x = (x + self.a(x)) * gate
        y: Tensor = x + self.b(x)
        return y

    reason = "mul (aten.mul.Tensor) between add and mul, the next state, also reads sigmoid, which is no parameter"
    assert _refused(forward) == ([1, 1], (Refusal("mul", reason),))


def test_a_sum_that_is_read_beside_its_norm_is_refused_with_its_reader() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, ...]:
        total = x + self.a(x)
        x = total / total.norm(dim=-1, keepdim=True)
        return x + self.b(x), torch.exp(total)

    reason = "add before div, the next state, is also read by exp"
    assert _refused(forward) == ([1, 1], (Refusal("add", reason),))  # type: ignore[arg-type]


def test_images_normalised_over_their_pixels_by_hand_are_one_stack() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "abc":
            x = x + getattr(self, name)(x)
            x = (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-5) * self.gain[:, None, None]
        return x

    convolutions = {name: nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for name in "abc"}
    model = randomised(Function(forward, **convolutions, gain=normal(WIDTH)))
    assert len(_only(find_stacks(_cleaned(model, normal(2, WIDTH, 5, 5)))).terms) == 3
