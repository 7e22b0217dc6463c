"""Teacher and student as functions of inputs and weights: the same values as their graphs, and what they cannot be."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, fx, nn

from parallelize.data import Samples
from parallelize.healing.options import HealOptions
from parallelize.healing.pair import Pair, pair
from parallelize.healing.weights import trainable
from parallelize.models.capture import capture
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from passes.errors import ParallelizeError
from passes.graph.outputs import flat_outputs
from passes.stacks.find import find_stacks
from tests.parallelize.healing.cases import FIT, PLAN
from tests.parallelize.small_models import Residual, language, mlp, stack_plan, text, vision

CPU = torch.device("cpu")


def made(refitted: Refitted) -> Pair:
    stacks = find_stacks(vision(2).module).stacks
    ends = [ours for ours, _ in refitted.ends]
    weights = trainable(refitted.module, stacks, PLAN, ends, HealOptions(), CPU)
    return pair(vision(2).module, refitted, weights, FIT, CPU, logits=True)


def test_both_give_their_outputs_and_then_the_states_that_should_agree(refitted: Refitted) -> None:
    both, inputs = made(refitted), FIT.batch(5)
    taught, answered = both.taught(inputs), both.answered(inputs)
    assert len(taught) == len(answered) == 1 + len(refitted.ends)
    torch.testing.assert_close(taught[0], vision(2).module(*inputs))
    torch.testing.assert_close(answered[0], refitted.module(*inputs))
    assert [value.shape for value in taught] == [value.shape for value in answered]
    assert not taught[0].requires_grad


def test_the_student_follows_its_weights_and_sends_them_gradients(refitted: Refitted) -> None:
    both, inputs = made(refitted), FIT.batch(5)
    both.answered(inputs)[0].sum().backward()
    trained = {leaf for weight in both.weights for leaf in weight.leaves}
    assert all(tensor.grad is not None for tensor in trained)
    before = both.answered(inputs)[0].detach()
    with torch.no_grad():
        for tensor in trained:
            tensor.mul_(1.5)
    assert not torch.allclose(both.answered(inputs)[0], before)
    torch.testing.assert_close(refitted.module(*inputs), before)


class Outputs(nn.Module):
    """Two MLPs on vectors; what it returns is made of the last state."""

    def __init__(self, end: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.end = Residual([mlp(8, 16) for _ in range(2)]), end

    def forward(self, x: Tensor) -> object:
        return self.end(self.body(x))  # type: ignore[operator]


def paired(end: object, *, logits: bool) -> Pair:
    program = capture(Outputs(end).eval(), (torch.zeros(2, 8),), dynamic=None, origin="net")
    samples = Samples({"x": torch.randn(6, 8)}, fixed=2)
    refitted = refit(program.module, stack_plan(2, [[[0], [1]]], "none"), samples, samples)
    return pair(program.module, refitted, (), samples, CPU, logits=logits)


@pytest.mark.parametrize(
    "end", [lambda x: (x, x.sum(1)), lambda x: x.sum(1), lambda x: x.argmax(1)], ids=["two", "one axis", "integers"]
)
def test_outputs_that_are_no_logits_are_refused_by_kl(end: object) -> None:
    with pytest.raises(ParallelizeError, match=r"^Healing by KL needs one output of logits, ") as caught:
        paired(end, logits=True)
    assert caught.value.hint == "Use --metric relative-l2."


def test_without_logits_any_numbers_will_do_and_integers_alone_will_not() -> None:
    assert len(paired(lambda x: (x, x.argmax(1)), logits=False).taught((torch.zeros(2, 8),))) == 3
    with pytest.raises(ParallelizeError, match=r"^Healing needs an output of floating-point numbers\.$"):
        paired(lambda x: x.argmax(1), logits=False)


@functools.cache
def language_pair() -> Pair:
    samples = text(8, 0)
    refitted = refit(language().module, stack_plan(5, [[[0]], [[1], [2]], [[3], [4]]], "none"), samples, samples)
    return pair(language().module, refitted, (), samples, CPU, logits=True)


def test_padding_is_known_in_outputs_and_states_of_tokens_and_the_classes_of_samples_are_no_tokens() -> None:
    assert all(layout is not None for layout in language_pair().distance.layouts)
    assert language_pair().distance.mask == 1


def test_the_graphs_themselves_stay_as_they_were(refitted: Refitted) -> None:
    inputs = FIT.batch(3)
    before: fx.GraphModule = refitted.module
    code = before.code
    made(refitted)
    assert before.code == code
    assert torch.equal(flat_outputs(before, inputs)[0], before(*inputs))
