"""The refit of whole networks: convolutions, transformers, post-norm encoders under one norm."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.data import Samples
from parallelize.metrics import predict, score
from parallelize.models.capture import capture
from parallelize.refitting.refit import Refitted, refit
from passes.fusion.fuse_width import FuseWidth
from passes.plan import Level, Plan, Refit, StackPlan
from passes.schedule.apply_plan import rewrite
from tests.passes.models import Attention, Mlp, graph_of, normal, randomised, relative_error, run, wide_operators
from tests.passes.models import Residual as Terms
from tests.sampled import sampled

WIDTH, HIDDEN, TOKENS, PIXELS = 8, 16, 6, 6
PAIRS = (Level(((0,), (1,))), Level(((2,), (3,))))


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.relu(self.first(x)))
        return y


class NextBlock(nn.Module):
    """ConvNeXt: depthwise convolution, norm and MLP with the channels last, a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.gain = nn.Parameter(torch.full((WIDTH,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return (self.gain * self.down(F.gelu(self.up(h)))).permute(0, 3, 1, 2)


class Network(nn.Module):
    """stem, x = post(x + block(x)) four times; the output is the state."""

    def __init__(self, block: Callable[[], nn.Module], post: Callable[[], nn.Module], stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(block() for _ in range(4))
        self.posts = nn.ModuleList(post() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, post in zip(self.blocks, self.posts, strict=True):
            x = post(x + block(x))
        return x


@dataclass(frozen=True)
class Case:
    """A network, its plan and its samples: to fit, to choose, to judge."""

    teacher: fx.GraphModule
    levels: tuple[Level, ...]
    samples: tuple[Samples, Samples, Samples]

    def plan(self, strength: Refit) -> Plan:
        terms = 1 + max(term for level in self.levels for term in level.terms)
        return Plan((StackPlan(terms, self.levels, strength),))


def _images(block: Callable[[], nn.Module], post: Callable[[], nn.Module] = nn.Identity) -> Case:
    torch.manual_seed(0)
    network = Network(block, post, nn.Conv2d(3, WIDTH, 3, padding=1)).double().eval()
    fit, held_out, judge = (
        Samples({"x": normal(count, 3, PIXELS, PIXELS, seed=s)}) for s, count in enumerate((60, 20, 20))
    )
    teacher = capture(network, (fit.arrays["x"][:1],), origin="images").module
    return Case(teacher, PAIRS, (fit, held_out, judge))


def _encoder(levels: tuple[Level, ...], *, norm_first: bool) -> Case:
    """Two layers of attention and MLP, each behind a norm or before one; the output is a state of tokens."""
    torch.manual_seed(0)
    terms: list[nn.Module] = [part for _ in range(2) for part in (Attention("chunk"), Mlp())]
    for term in terms if not norm_first else ():
        term.norm = nn.Identity()
    posts = [nn.LayerNorm(WIDTH) for _ in terms] if not norm_first else []
    network = Terms(terms, posts, stem=nn.Linear(WIDTH, WIDTH))
    randomised(network)
    fit, held_out, judge = (Samples({"x": normal(n, TOKENS, WIDTH, seed=seed)}) for seed, n in enumerate((200, 60, 60)))
    return Case(graph_of(network, fit.arrays["x"][:2]), levels, (fit, held_out, judge))


CASES: dict[str, Callable[[], Case]] = {
    "resnet, relu in each block": lambda: _images(ResidualBlock),
    "resnet, relu after the add": lambda: _images(ResidualBlock, nn.ReLU),
    "convnext": lambda: _images(NextBlock),
    "post-norm, one norm for a level": lambda: _encoder(
        (Level(((0,), (2,)), shared=True), Level(((1,), (3,)), shared=True)), norm_first=False
    ),
    "post-norm, one norm for all": lambda: _encoder((Level(((0,), (1,), (2,), (3,)), shared=True),), norm_first=False),
    "post-norm, norms of their own": lambda: _encoder((Level(((0,), (2,))), Level(((1,), (3,)))), norm_first=False),
    "pre-norm, block form": lambda: _encoder((Level(((0, 1), (2, 3))),), norm_first=True),
    "pre-norm, all side by side": lambda: _encoder((Level(((0,), (1,), (2,), (3,))),), norm_first=True),
}


@functools.cache
def _case(name: str) -> Case:
    return CASES[name]()


@functools.cache
def _refitted(name: str, strength: Refit) -> Refitted:
    case = _case(name)
    return refit(case.teacher, case.plan(strength), *case.samples[:2], 25)


def _distance(module: fx.GraphModule, teacher: fx.GraphModule, samples: Samples) -> float:
    return score(predict(module, samples), predict(teacher, samples)).relative_l2


@pytest.mark.parametrize("strength", [pytest.param("affine", marks=pytest.mark.slow), "full"])
@pytest.mark.parametrize("name", sampled([*CASES], 3))
def test_a_refit_beats_no_refit_on_samples_it_never_saw(name: str, strength: Refit) -> None:
    case, refitted = _case(name), _refitted(name, strength)
    as_is, _ = rewrite(case.teacher, case.plan(strength))
    judge = case.samples[2]
    assert _distance(refitted.module, case.teacher, judge) < 0.9 * _distance(as_is, case.teacher, judge)
    assert all(level.after < level.before for level in refitted.levels)


@pytest.mark.parametrize("name", sampled([*CASES], 3))
def test_every_term_has_outer_coefficients(name: str) -> None:
    assert [level.skipped for level in _refitted(name, "full").levels] == [()] * len(_case(name).levels)
    assert {level.strength for level in _refitted(name, "full").levels} == {"full"}


@pytest.mark.parametrize("name", sampled([*CASES], 3))
def test_the_last_record_is_the_error_of_the_last_sum_or_where_a_norm_follows_before_it(name: str) -> None:
    case, refitted = _case(name), _refitted(name, "full")
    measured = _distance(refitted.module, case.teacher, case.samples[1]) ** 2
    after = refitted.levels[-1].after
    if any(level.shared for level in case.levels):
        assert 0.1 * after < measured < 10 * after
    else:
        assert measured == pytest.approx(after, rel=1e-5)


@pytest.mark.parametrize("name", sampled([*CASES], 3))
def test_a_refitted_graph_runs_at_every_batch_size(name: str) -> None:
    module, x = _refitted(name, "full").module, _case(name).samples[2].arrays["x"]
    whole = module(x)
    for size in (1, 2, 7):
        assert relative_error(module(x[:size]), whole[:size]) < 1e-12


@pytest.mark.parametrize("strength", [pytest.param("affine", marks=pytest.mark.slow), "full"])
@pytest.mark.parametrize("name", sampled([*CASES], 3))
def test_a_refitted_graph_is_fused_exactly(name: str, strength: Refit) -> None:
    module, x = _refitted(name, strength).module, _case(name).samples[2].arrays["x"]
    fused, record = run(module, FuseWidth(), x[:3])
    assert record.matches != ()
    assert relative_error(fused(x), module(x)) < 1e-10


@pytest.mark.parametrize("name", ["post-norm, one norm for a level", "pre-norm, all side by side"])
def test_a_read_in_and_an_affine_part_cost_no_operator_once_fused(name: str) -> None:
    case, refitted = _case(name), _refitted(name, "affine")
    as_is, _ = rewrite(case.teacher, case.plan("none"))
    assert any(level.read_ins for level in refitted.levels)
    assert all(level.strength == "affine" for level in refitted.levels)
    without, with_refit = (run(module, FuseWidth())[0] for module in (as_is, refitted.module))
    assert wide_operators(with_refit) == wide_operators(without)


def test_a_shared_norms_target_is_what_the_norm_should_read_the_teachers_own_sum() -> None:
    case = _case("post-norm, one norm for all")
    refitted = _refitted("post-norm, one norm for all", "affine")
    (level,) = refitted.levels
    as_is, _ = rewrite(case.teacher, case.plan("none"))
    sums = [_before_last_norm(module, case.samples[1]) for module in (as_is, case.teacher, refitted.module)]
    errors = [float((value - sums[1]).square().sum() / sums[1].square().sum()) for value in sums]
    assert level.before == pytest.approx(errors[0], rel=1e-9)
    assert level.after == pytest.approx(errors[2], rel=1e-5)


def _before_last_norm(module: fx.GraphModule, samples: Samples) -> Tensor:
    norm = module.graph.find_nodes(op="call_function", target=torch.ops.aten.layer_norm.default)[-1]
    seen: list[Tensor] = []

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if n is norm.args[0]:
                seen.append(value)
            return value

    with torch.no_grad():
        Watch(module).run(samples.arrays["x"])
    return seen[0]


def test_terms_that_convolve_are_not_foretold() -> None:
    assert all(level.read_ins == () for level in _refitted("convnext", "full").levels)
