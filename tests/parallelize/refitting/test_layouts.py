"""The refit of whole networks: convolutions, post-norm encoders under one norm, padded samples, several read-ins."""

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
from passes.graph.operators import LINEAR
from passes.plan import Level, Plan, Refit, StackPlan
from passes.schedule.apply_plan import rewrite
from tests.parallelize.small_models import Residual, capture_vectors, mlp, stack_plan, vectors
from tests.passes.models import Attention, Mlp, graph_of, randomised, relative_error, run, wide_operators
from tests.passes.models import Residual as Terms
from tests.sampled import sampled

WIDTH, HIDDEN, TOKENS, PIXELS = 8, 16, 6, 6
PAIRS = (Level(((0,), (1,))), Level(((2,), (3,))))


def _normal(count: int, seed: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
        Samples({"x": _normal(count, s, 3, PIXELS, PIXELS)}) for s, count in enumerate((60, 20, 20))
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
    fit, held_out, judge = (Samples({"x": _normal(n, seed, TOKENS, WIDTH)}) for seed, n in enumerate((200, 60, 60)))
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


# ----------------------------------------------------------------------------------------------------------- padding


class Padded(nn.Module):
    """Two attentions and two MLPs behind norms; attention leaves padding out."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.mlps = nn.ModuleList(mlp(WIDTH, HIDDEN)[1:] for _ in range(2))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        x = 2.0 * x
        keep = attention_mask.bool()[:, None, None, :]
        for block in range(2):
            qkv = self.qkv[block](self.norms[2 * block](x)).reshape(x.shape[0], x.shape[1], 3, 2, WIDTH // 2)
            mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0), attn_mask=keep)
            x = x + self.out[block](mixed.transpose(1, 2).reshape(x.shape))
            x = x + self.mlps[block](self.norms[2 * block + 1](x))
        return x


def _padded(count: int, seed: int, filling: float) -> Samples:
    lengths = torch.randint(2, TOKENS + 1, (count,), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    x = _normal(count, seed, TOKENS, WIDTH)
    noise = filling * _normal(count, seed + 100, TOKENS, WIDTH)
    return Samples({"x": torch.where(mask[..., None].bool(), x, noise), "attention_mask": mask}, mask="attention_mask")


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_what_stands_at_padding_changes_neither_the_solution_nor_its_record(strength: Refit) -> None:
    torch.manual_seed(0)
    network = Padded().double().eval()
    teacher = capture(network, tuple(_padded(2, 0, 1.0).arrays.values()), origin="padded").module
    plan = stack_plan(4, [[[0], [2]], [[1], [3]]], strength)
    clean, dirty = (refit(teacher, plan, _padded(80, 1, filling), _padded(40, 2, filling)) for filling in (0.0, 50.0))
    assert any(level.read_ins for level in clean.levels)
    assert [level.strength for level in clean.levels] == [strength] * 2
    for ours, theirs in zip(clean.levels, dirty.levels, strict=True):
        assert (ours.ridge, ours.strength, len(ours.read_ins)) == (theirs.ridge, theirs.strength, len(theirs.read_ins))
        assert (ours.before, ours.after) == pytest.approx((theirs.before, theirs.after), rel=1e-9)
    weights = clean.module.state_dict(), dirty.module.state_dict()
    assert list(weights[0]) == list(weights[1])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-12, msg=name)


def test_padding_counts_where_no_mask_says_so() -> None:
    """The same samples under another name of the mask: what stands at padding matters then."""
    torch.manual_seed(0)
    teacher = capture(Padded().double().eval(), tuple(_padded(2, 0, 1.0).arrays.values()), origin="padded").module
    plan = stack_plan(4, [[[0], [2]], [[1], [3]]], "affine")

    def renamed(samples: Samples) -> Samples:
        return Samples(dict(zip(("x", "keep"), samples.arrays.values(), strict=True)))

    clean, dirty = (
        refit(teacher, plan, renamed(_padded(80, 1, filling)), renamed(_padded(40, 2, filling)))
        for filling in (0.0, 50.0)
    )
    assert clean.levels[0].after != pytest.approx(dirty.levels[0].after, rel=1e-3)


# ---------------------------------------------------------------------------------------------------------- read-ins


def _coordinates(up: list[float], down: list[float]) -> nn.Sequential:
    """Each of two coordinates alone: down * hardtanh(up * x)."""
    term = nn.Sequential(nn.Linear(2, 2), nn.Hardtanh(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        term[0].weight.copy_(torch.diag(torch.tensor(up)))  # type: ignore[operator]
        term[0].bias.zero_()  # type: ignore[operator]
        term[2].weight.copy_(torch.diag(torch.tensor(down)))  # type: ignore[operator]
    return term


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_a_read_in_that_foretells_better_and_leaves_the_level_worse_is_undone(strength: Refit) -> None:
    """The second term reads coordinate 1, which is foretold well and which it hardly passes on, and coordinate 0.

    Coordinate 0 lacks 0.5 where it is fitted and -0.5 where it is judged, so the guess doubles the error there.
    """
    identity = nn.Linear(2, 2)
    with torch.no_grad():
        identity.weight.copy_(torch.diag(torch.tensor([1.0, 0.0])))
        identity.bias.zero_()
    teacher = capture_vectors(Residual([_coordinates([1, 0.01], [0.5, 200]), identity]), 2).module
    fit, held_out = vectors(100, 2, 0), vectors(50, 2, 1)
    fit.arrays["x"][:, 0] = torch.linspace(1, 2, 100)
    held_out.arrays["x"][:, 0] = torch.linspace(-2, -1, 50)
    plan = stack_plan(2, [[[0], [1]]], strength)
    as_is, _ = rewrite(teacher, plan)
    undone, kept = refit(teacher, plan, fit, held_out), refit(teacher, plan, fit, fit)
    assert [number for number, _ in kept.levels[0].read_ins] == [1]
    (level,) = undone.levels
    assert (level.strength, level.read_ins) == ("none", ())
    assert level.after == level.before
    assert set(undone.module.state_dict()) == set(as_is.state_dict())
    assert torch.equal(predict(undone.module, held_out)[0], predict(as_is, held_out)[0])


def test_a_level_that_is_exact_whatever_its_terms_read_keeps_its_weights() -> None:
    """The second term adds nothing, so a better guess of its input is no reason to change its weights."""
    torch.manual_seed(0)
    terms = [mlp(WIDTH, HIDDEN) for _ in range(2)]
    nn.init.zeros_(terms[1][3].weight)  # type: ignore[arg-type]
    nn.init.zeros_(terms[1][3].bias)  # type: ignore[arg-type]
    teacher = capture_vectors(Residual(terms), WIDTH).module
    plan = stack_plan(2, [[[0], [1]]], "full")
    refitted = refit(teacher, plan, vectors(100, WIDTH, 0), vectors(50, WIDTH, 1))
    assert (refitted.levels[0].strength, refitted.levels[0].read_ins) == ("none", ())
    assert set(refitted.module.state_dict()) == set(rewrite(teacher, plan)[0].state_dict())


def test_of_terms_with_the_same_weights_each_reads_its_own_guess() -> None:
    torch.manual_seed(0)
    term = mlp(WIDTH, HIDDEN)
    network = Residual([term, term, term])
    teacher = capture_vectors(network, WIDTH).module
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    plan = stack_plan(3, [[[0], [1], [2]]], "affine")
    refitted = refit(teacher, plan, vectors(300, WIDTH, 0), vectors(100, WIDTH, 1))
    assert [number for number, _ in refitted.levels[0].read_ins] == [1, 2]
    linears = refitted.module.graph.find_nodes(op="call_function", target=LINEAR)
    inner = {str(node.args[1].target) for node in linears if node.meta["val"].shape[-1] == HIDDEN}
    assert len(inner) == 3
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_later_terms_of_a_chain_are_foretold_after_the_earlier_ones() -> None:
    torch.manual_seed(0)
    teacher = capture_vectors(Residual([mlp(WIDTH, HIDDEN) for _ in range(4)]), WIDTH).module
    plan = stack_plan(4, [[[0, 1], [2, 3]]], "affine")
    refitted = refit(teacher, plan, vectors(300, WIDTH, 0), vectors(100, WIDTH, 1))
    assert [number for number, _ in refitted.levels[0].read_ins] == [2, 3]
    assert all(0 <= left <= 0.98 for _, left in refitted.levels[0].read_ins)


def test_terms_that_convolve_are_not_foretold() -> None:
    assert all(level.read_ins == () for level in _refitted("convnext", "full").levels)


def test_a_term_without_biases_is_foretold_without_a_shift() -> None:
    torch.manual_seed(0)

    def term() -> nn.Module:
        up, down = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(HIDDEN, WIDTH, bias=False)
        return nn.Sequential(nn.RMSNorm(WIDTH), up, nn.SiLU(), down)

    teacher = capture_vectors(Residual([term() for _ in range(2)]), WIDTH).module
    refitted = refit(teacher, stack_plan(2, [[[0], [1]]], "affine"), vectors(300, WIDTH, 0), vectors(100, WIDTH, 1))
    assert [number for number, _ in refitted.levels[0].read_ins] == [1]
    linears = refitted.module.graph.find_nodes(op="call_function", target=LINEAR)
    with_bias = [node for node in linears if len(node.args) > 2 and node.args[2] is not None]
    assert [str(node.args[2].target) for node in with_bias] == ["affine_bias_0"]
