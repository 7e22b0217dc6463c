"""What leaves the range of half precision in one sample of many stays in fp32, wherever that sample is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.data import Samples
from parallelize.export import half_range
from parallelize.export.half_range import cast_in_range
from parallelize.export.precision import cast
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import CheckError
from passes.precision.cast_precision import CastPrecision
from passes.precision.half_arithmetic import HalfArithmetic, watched
from tests.sampled import sampled

COUNT, WIDTH = 30, 6
Make = Callable[[nn.ModuleDict, Tensor], object]


class _Made(nn.Module):
    def __init__(self, make: Make) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("first", "second", "third")})
        self.make = make

    def forward(self, x: Tensor) -> object:
        return self.make(self.parts, x)


def _program(make: Make) -> Program:
    return capture(_Made(make).eval(), (_normal()[:2],), origin="made")


def _normal() -> Tensor:
    return torch.randn(COUNT, 3, WIDTH, generator=torch.Generator().manual_seed(1))


def _with(large: float, place: int = 17) -> Tensor:
    x = _normal()
    x[place] *= large
    return x


def _twice(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    return parts["second"](torch.tanh(1e-4 * parts["first"](x)))


def _attended(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    q, k, v = (part(x).unsqueeze(1) for part in parts.values())
    return F.scaled_dot_product_attention(q, k, v).squeeze(1)


def _chain(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    for part in parts.values():
        x = x + part(x)
    return F.layer_norm(x, (WIDTH,))


def _least_share(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    weight = (1e-3 * parts["first"](x)).square().square()
    return weight / weight.sum(-1, keepdim=True)


CASES: dict[str, tuple[Make, float]] = {
    "an input": (lambda parts, x: torch.tanh(1e-4 * parts["first"](x)), 1e5),
    "a product": (lambda parts, x: parts["second"](parts["first"](x) * 100), 3e3),
    "scores of an attention": (_attended, 1e3),
    "a sum that grows": (_chain, 5e4),
    "a quotient of what half precision rounds to zero": (_least_share, 1.0),
    "several values of one operator": (lambda parts, x: sum((1e3 * parts["first"](x)).chunk(2, -1)) * 1e-3, 1e3),
    "class numbers alone": (lambda parts, x: parts["first"](x).square().softmax(-1).argmax(-1), 1e3),
}


def _parts(x: Tensor, order: Tensor) -> tuple[Samples, ...]:
    return tuple(Samples({"x": x}).take(part) for part in order.split(10))


@pytest.mark.parametrize("name", sampled([*CASES], 2))
def test_the_cast_is_right_on_every_sample_and_the_same_in_any_order_of_them(name: str) -> None:
    make, large = CASES[name]
    program, x = _program(make), _with(large)
    step = CastPrecision("fp16", norms=False, softmax=False, state=False)
    orders = (torch.arange(COUNT), torch.arange(COUNT).flip(0))
    found = [cast_in_range(program, step, _parts(x, order)) for order in orders]
    assert found[0].wide == found[1].wide != ()
    assert found[0].why == found[1].why != ""
    keep = watched(program.module)
    for module in (program.module, found[0].program.module):
        run = HalfArithmetic(module, keep)
        with torch.no_grad():
            run.run(x, enable_io_processing=False)
        assert all(run.values[each].isfinite().all() for each in keep)


def test_the_value_is_named_with_its_size() -> None:
    make, large = CASES["an input"]
    found = cast_in_range(_program(make), CastPrecision("fp16"), [Samples({"x": _with(large)})])
    size = float(_with(large).abs().max())
    assert found.why == f"the input 'x' is {size:.3g} in sample 17, infinite in float16, which ends at 65504"
    assert found.wide == ("linear", "mul"), "the linear is as large as the input"


def test_nothing_stays_where_all_samples_are_in_the_range_nor_where_infinity_is_harmless() -> None:
    for make, large in ((_twice, 10.0), (lambda parts, x: 1 / (1 + (-parts["first"](x) * 3).exp()), 20.0)):
        found = cast_in_range(_program(make), CastPrecision("fp16"), [Samples({"x": _with(large)})])
        assert (found.wide, found.why) == ((), "")


def test_bfloat16_has_the_range_of_float32() -> None:
    for make, large in (CASES["an input"], CASES["a product"], CASES["scores of an attention"]):
        assert cast_in_range(_program(make), CastPrecision("bf16"), [Samples({"x": _with(large)})]).wide == ()


def test_a_cast_that_does_not_come_into_the_range_is_refused_with_the_value() -> None:
    make, large = CASES["a product"]
    with pytest.raises(CheckError, match=r"^made leaves the range of fp16: .* is .*, infinite in float16") as caught:
        cast_in_range(_program(make), CastPrecision("fp16"), [Samples({"x": _with(large)})], rounds=1)
    assert "bf16" in caught.value.hint


class _Padded(nn.Module):
    """A linear of each token, then numbers of the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.linear(x) * (keep >= 0).unsqueeze(-1)


def test_what_stands_at_padding_may_leave_the_range() -> None:
    keep, x = torch.ones(COUNT, 3, dtype=torch.int64), _normal()
    keep[17, 0], x[17, 0] = 0, 1e6
    dims = ({0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"})
    program = capture(_Padded().eval(), (x[:2], keep[:2]), dynamic=dims, origin="padded")
    arrays = {"x": x, "keep": keep}
    assert cast_in_range(program, CastPrecision("fp16"), [Samples(arrays, mask="keep")]).wide == ()
    assert cast_in_range(program, CastPrecision("fp16"), [Samples(arrays)]).wide != ()


def test_precision_is_chosen_among_casts_that_are_right_on_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    make, large = CASES["a product"]
    program, few = _program(make), Samples({"x": _normal()[:8]})
    made, record = cast(program, "fp16", few, every=_parts(_with(large), torch.arange(COUNT)))
    assert record.wide
    assert record.why
    assert [error < 1e-2 for _, error in record.errors] == [False, True]
    with torch.no_grad():
        assert made.module(_with(large)).isfinite().all()
    assert cast(program, "fp16", few)[1].wide == ()
    monkeypatch.setattr(half_range, "kept_for_range", lambda *_: frozenset())
    with pytest.raises(CheckError, match="leaves the range of fp16"):
        cast(program, "fp16", few, every=_parts(_with(large), torch.arange(COUNT)))
