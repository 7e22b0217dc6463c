"""What a term's output owes to an earlier term, on models where the answer is known by hand."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paraformer.model import VisionParaFormer
from parallelize.data import Samples
from parallelize.exploring.sensitivity import Sensitivity, StackSensitivity, measure
from parallelize.models.capture import capture
from passes.errors import ParallelizeError
from tests.parallelize.small_models import (
    SMALL,
    PostNorm,
    Residual,
    TwoStacks,
    capture_vectors,
    images,
    linear,
    mlp,
    vectors,
)
from tests.passes.eager import vision_steps

SAMPLES = vectors(40, 4, 0)


def _one(module: nn.Module, width: int = 4, samples: Samples = SAMPLES, **options: int) -> StackSensitivity:
    (stack,) = measure(capture_vectors(module, width).module, samples, **options).stacks
    return stack


def _by_hand(terms: list[Callable[[Tensor], Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
    """Both matrices of terms x -> f(x), written as sums over single entries."""
    states, added = [x], []
    for term in terms:
        added.append(term(states[-1]))
        states.append(states[-1] + added[-1])
    relative, cosine = (torch.zeros(len(terms), len(terms), dtype=torch.float64) for _ in range(2))
    for i, term in enumerate(terms):
        for j in range(i):
            without = term(states[i] - added[j])
            relative[i, j] = (without - added[i]).norm() / added[i].norm()
            similar = nn.functional.cosine_similarity(without.flatten(1), added[i].flatten(1))
            cosine[i, j] = (1 - similar).mean()
    return relative, cosine


def test_a_linear_term_depends_by_what_it_makes_of_the_other_terms_output() -> None:
    """f_0 = x / 2, so f_1 = 3 (x + x / 2), and without f_0 it is 3 x: less by a third, in the same direction."""
    stack = _one(Residual([linear(0.5 * torch.eye(4)), linear(3 * torch.eye(4))]))
    assert float(stack.relative_l2[1, 0]) == pytest.approx(1 / 3, rel=1e-9)
    assert float(stack.cosine[1, 0]) == pytest.approx(0, abs=1e-12)


def test_a_term_turned_by_a_right_angle_has_the_cosine_distance_one() -> None:
    """The second term reads coordinates 0 and 1; all that is in 1 comes from the first term, which takes 0 out."""
    first = torch.zeros(4, 4)
    first[0, 0], first[1, 0] = -1, 1
    stack = _one(Residual([linear(first), linear(torch.diag(torch.tensor([1.0, 1, 0, 0])))]), samples=_axis(0))
    assert float(stack.cosine[1, 0]) == pytest.approx(1, rel=1e-9)
    assert float(stack.relative_l2[1, 0]) == pytest.approx(2**0.5, rel=1e-9)


def _axis(coordinate: int) -> Samples:
    values = torch.zeros(40, 4, dtype=torch.float64)
    values[:, coordinate] = torch.arange(1, 41)
    return Samples({"x": values})


def test_independent_terms_have_exactly_no_dependency() -> None:
    """Each term reads and writes a coordinate of its own."""
    terms = []
    for coordinate in range(4):
        weight = torch.zeros(4, 4)
        weight[coordinate, coordinate] = 0.7
        terms.append(linear(weight))
    stack = _one(Residual(terms))
    assert not stack.relative_l2.any()
    assert not stack.cosine.any()


def test_only_the_dependency_that_is_there_is_found() -> None:
    """Term 2 reads what term 0 wrote; term 1 does neither."""
    write, apart, read = (torch.zeros(4, 4) for _ in range(3))
    write[1, 0], apart[3, 3], read[2, 1] = 1, 1, 1
    stack = _one(Residual([linear(write), linear(apart), linear(read)]))
    assert stack.relative_l2.nonzero().tolist() == [[2, 0]]
    assert stack.cosine.nonzero().tolist() == [[2, 0]]


@pytest.mark.parametrize("batch_size", [7, 16, 40])
def test_the_matrices_are_those_written_out_by_hand_whatever_the_batches(batch_size: int) -> None:
    torch.manual_seed(0)
    model = Residual([mlp(4, 8) for _ in range(5)])
    stack = _one(model, batch_size=batch_size)
    with torch.no_grad():
        relative, cosine = _by_hand(list(model.terms), SAMPLES.arrays["x"])
    torch.testing.assert_close(stack.relative_l2, relative, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(stack.cosine, cosine, rtol=1e-7, atol=1e-12)
    assert stack.relative_l2.dtype == stack.cosine.dtype == torch.float64
    assert not stack.relative_l2.triu().any()


def test_a_post_norm_term_adds_its_norm_less_the_state() -> None:
    torch.manual_seed(0)
    model = PostNorm(4)
    samples = vectors(30, 6, 0)
    stack = _one(model, 6, samples)

    def term(number: int) -> Callable[[Tensor], Tensor]:
        return lambda x: model.norms[number](x + model.terms[number](x)) - x

    with torch.no_grad():
        relative, cosine = _by_hand([term(number) for number in range(4)], samples.arrays["x"])
    torch.testing.assert_close(stack.relative_l2, relative, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(stack.cosine, cosine, rtol=1e-7, atol=1e-12)


def _added_by(step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return step(x) - x


def test_attention_and_mlp_are_terms_of_their_own_and_samples_are_compared_whole() -> None:
    torch.manual_seed(0)
    model = VisionParaFormer(SMALL).double().eval()
    pixels = images(20, 0).arrays["images"].double()
    teacher = capture(model, (pixels[:2],), origin="images").module
    (stack,) = measure(teacher, Samples({"images": pixels})).stacks
    assert stack.kinds == ("attention", "mlp") * 4
    terms = [functools.partial(_added_by, step) for step in vision_steps(model)]
    with torch.no_grad():
        relative, cosine = _by_hand(terms, model.embed(pixels))
    torch.testing.assert_close(stack.relative_l2, relative, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(stack.cosine, cosine, rtol=1e-6, atol=1e-9)


def test_each_stack_has_matrices_of_its_own() -> None:
    torch.manual_seed(0)
    found = measure(capture_vectors(TwoStacks(), 6).module, vectors(20, 6, 0))
    assert [stack.relative_l2.shape for stack in found.stacks] == [(3, 3), (4, 4)]
    assert [stack.name for stack in found.stacks] == ["first.terms", "second.terms"]


def test_the_second_stack_is_measured_on_its_own_serial_states() -> None:
    torch.manual_seed(0)
    model = TwoStacks()
    samples = vectors(20, 6, 0)
    second = measure(capture_vectors(model, 6).module, samples).stacks[1]
    with torch.no_grad():
        x = torch.tanh(model.between(model.first(samples.arrays["x"])))
        relative, _ = _by_hand(list(model.second.terms), x)
    torch.testing.assert_close(second.relative_l2, relative, rtol=1e-9, atol=1e-12)


def test_a_term_that_adds_nothing_depends_on_none_unless_the_change_wakes_it() -> None:
    """The last term reads max(0, x_0 - 1), which the constant first term keeps at 0 for all samples."""

    class Wakes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * torch.relu(x[..., :1] - 1)

    def constant(*values: float) -> nn.Linear:
        return linear(torch.zeros(4, 4), torch.tensor(values))

    samples = Samples({"x": torch.full((10, 4), 2.0, dtype=torch.float64)})
    stack = _one(Residual([constant(-5, 0, 0, 0), constant(0, 3, 0, 0), Wakes()]), samples=samples)
    assert stack.relative_l2[2].tolist() == [1, 0, 0]
    assert stack.cosine[2].tolist() == [0.5, 0, 0]


def test_only_the_first_samples_are_used() -> None:
    torch.manual_seed(0)
    teacher = capture_vectors(Residual([mlp(4, 8) for _ in range(3)]), 4).module
    few, head = measure(teacher, SAMPLES, count=9), measure(teacher, SAMPLES.head(9))
    assert few.samples == head.samples == 9
    assert torch.equal(few.stacks[0].relative_l2, head.stacks[0].relative_l2)


def test_a_dictionary_goes_through_json_and_back() -> None:
    torch.manual_seed(0)
    found = measure(capture_vectors(TwoStacks(), 6).module, vectors(20, 6, 0))
    back = Sensitivity.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert back.samples == 20
    for one, other in zip(found.stacks, back.stacks, strict=True):
        assert (one.name, one.terms, one.kinds) == (other.name, other.terms, other.kinds)
        assert torch.equal(one.relative_l2, other.relative_l2)
        assert torch.equal(one.cosine, other.cosine)


def _edited(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    matrix = torch.tensor([[0.0, 0], [1, 0]], dtype=torch.float64)
    good = Sensitivity((StackSensitivity("blocks", ("a", "b"), ("attention", "mlp"), matrix, matrix),), 3).to_dict()
    value = copy.deepcopy(good)
    edit(value)
    return value


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.update(format="other"), "has the format 'other'"),
        (lambda v: v.pop("format"), "KeyError 'format'"),
        (lambda v: v.pop("samples"), "KeyError 'samples'"),
        (lambda v: v.update(stacks=None), "TypeError"),
        (lambda v: v["stacks"][0].pop("cosine"), "KeyError 'cosine'"),
        (lambda v: v["stacks"][0].update(kinds=["attention", "magic"]), "2 terms of the kinds attention, magic"),
        (lambda v: v["stacks"][0].update(kinds=["attention"]), "2 terms of the kinds attention"),
        (lambda v: v["stacks"][0].update(cosine=[[], [1.0, 2.0]]), r"rows of \[0, 2\] numbers for 2 terms"),
        (lambda v: v["stacks"][0].update(cosine=[[], ["much"]]), "ValueError"),
    ],
)
def test_a_damaged_dictionary_is_refused(edit: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(ParallelizeError, match=message) as refused:
        Sensitivity.from_dict(_edited(edit))
    assert "parallelize-sensitivity/1" in refused.value.hint


def test_a_model_without_stacks_and_an_empty_set_of_samples_are_refused() -> None:
    with pytest.raises(ParallelizeError, match="The model has no residual stack"):
        measure(capture_vectors(nn.Linear(4, 4), 4).module, SAMPLES)
    teacher = capture_vectors(Residual([mlp(4, 8), mlp(4, 8)]), 4).module
    with pytest.raises(ParallelizeError, match="there are none"):
        measure(teacher, SAMPLES, count=0)
