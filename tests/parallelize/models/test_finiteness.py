"""A teacher that is NaN where it counts is refused, with the place where NaN begins."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from parallelize.data import Samples
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from parallelize.models.finiteness import refuse_not_finite
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.graph.outputs import flat_outputs

X = torch.randn(9, 4, 5, generator=torch.Generator().manual_seed(0))


class _Network(nn.Module):
    """A linear, then a share of its sum over tokens that are kept: 0 / 0 where none is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(5, 3)
        self.register_buffer("table", torch.ones(3))

    def forward(self, x: Tensor, keep: Tensor) -> dict[str, Tensor]:
        y = self.linear(x).masked_fill(torch.arange(3) == 0, -math.inf)
        shares = keep[..., None] / keep.sum(1)[:, None, None]
        return {"tokens": y * self.table, "pooled": (self.linear(x) * shares).sum(1)}


def _captured(model: nn.Module) -> Program:
    axes = {0: "batch", 1: "tokens"}
    return capture(model.eval(), (X[:2], torch.ones(2, 4)), dynamic=(axes, axes), origin="net")


def _samples(keep: Tensor, mask: str | None = None, x: Tensor = X) -> Samples:
    return Samples({"x": x, "keep": keep}, mask=mask)


def _refusal(program: Program, samples: Samples) -> str:
    with pytest.raises(ParallelizeError) as caught:
        refuse_not_finite(program, samples, most=4)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return str(caught.value)


def test_a_nan_parameter_is_named_before_anything_runs() -> None:
    model = _Network()
    with torch.no_grad():
        model.linear.weight[2, 1] = math.nan
    assert _refusal(_captured(model), _samples(torch.ones(9, 4))) == (
        "The parameter linear.weight of net is NaN in 1 of its 15 numbers."
    )


def test_a_nan_buffer_is_named_where_an_output_is_nan() -> None:
    model = _Network()
    model.table[1] = math.nan
    said = _refusal(_captured(model), _samples(torch.ones(9, 4)))
    assert said.startswith("The output 'tokens' of net is NaN in sample 0: its stored tensor table is NaN in 1 of")


def test_a_node_that_makes_nan_is_named_with_the_sample() -> None:
    keep = torch.ones(9, 4)
    keep[6] = 0
    said = _refusal(_captured(_Network()), _samples(keep))
    assert said == "The output 'pooled' of net is NaN in sample 6: it begins at div (aten.div.Tensor)."


def test_what_reads_infinity_is_named_with_it() -> None:
    class Far(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            far = (100 * x).exp()
            return far - far

    x = torch.zeros(6, 3)
    x[5, 1] = 30.0
    program = capture(Far().eval(), (x[:2],), origin="far")
    assert _refusal(program, Samples({"x": x})).endswith(
        "is NaN in sample 5: it begins at sub (aten.sub.Tensor), which reads infinity from exp."
    )


def test_infinite_logits_and_nan_at_padding_are_no_fault() -> None:
    keep, x = torch.ones(9, 4), X.clone()
    keep[3, :2] = 0
    x[3, :2] = math.nan

    class Tokens(_Network):
        def forward(self, x: Tensor, keep: Tensor) -> dict[str, Tensor]:
            return {"tokens": super().forward(x, keep)["tokens"]}

    program = _captured(Tokens())
    refuse_not_finite(program, _samples(keep, "keep", x), most=4)
    assert "NaN in sample 3" in _refusal(program, _samples(keep, None, x))


def test_after_clean_up_the_sentence_names_the_nodes_of_the_model_as_it_was_captured() -> None:
    class Spread(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.std(1, keepdim=True)

    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    x[4, 2] = math.inf
    raw = capture(Spread().eval(), (x[:2],), origin="net")
    cleaned, _ = clean(raw)
    assert not any(node.name == "std" for node in cleaned.module.graph.nodes)
    with pytest.raises(ParallelizeError, match=r"NaN in sample 4: it begins at std \(aten\.std"):
        refuse_not_finite(cleaned, Samples({"x": x}), captured=raw)


def test_what_the_program_answers_comes_with_the_samples_and_with_parts_of_them() -> None:
    program, samples = _captured(_Network()), _samples(torch.ones(9, 4))
    known = refuse_not_finite(program, samples, most=4)
    expected = flat_outputs(program.module, samples.batch(9))
    for part, index in ((known, slice(None)), (known.take([5, 2]).head(1), [5])):
        found = part.answered(program.module)
        assert found is not None
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs[index])
    assert known.answered(_captured(_Network()).module) is None
    assert samples.answered(program.module) is None
