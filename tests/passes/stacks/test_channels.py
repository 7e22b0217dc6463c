"""The axis of the channels: the first after the batch where a term convolves the state as it lies, else the last."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor, nn

from passes.stacks.channels import channel_axis, convolves
from passes.stacks.find import find_stacks
from tests.passes.drawn import drawn
from tests.passes.models import WIDTH, Convolution, Mlp, normal, tokens

CONVOLUTION, MLP = Convolution().double(), Mlp().double()
ALONG_TOKENS = nn.Conv1d(WIDTH, WIDTH, 3, padding=1).double()
NORM = nn.LayerNorm(WIDTH).double()


@pytest.mark.parametrize(
    ("term", "x", "axis"),
    [
        pytest.param(CONVOLUTION, normal(2, WIDTH, 5, 5), 1, id="image"),
        pytest.param(MLP, tokens(), -1, id="tokens"),
        pytest.param(lambda x: ALONG_TOKENS(x.transpose(1, 2)).transpose(1, 2), tokens(), -1, id="convolved tokens"),
        pytest.param(lambda x: ALONG_TOKENS(NORM(x).transpose(1, 2)).transpose(1, 2), tokens(), -1, id="conformer"),
        pytest.param(lambda x: MLP(x.movedim(1, -1)).movedim(-1, 1), normal(2, WIDTH, 5, 5), -1, id="mlp of pixels"),
        pytest.param(
            lambda x: CONVOLUTION(x.reshape(3, WIDTH, 2, 2)).reshape(3, 4, WIDTH), normal(3, 4, WIDTH), -1, id="patches"
        ),
    ],
)
def test_channels_lie_where_the_terms_convolve_or_last(term: Callable[[Tensor], Tensor], x: Tensor, axis: int) -> None:
    (stack,) = find_stacks(drawn(lambda x: x + term(x), x)).stacks
    assert channel_axis(stack) == axis
    assert convolves(stack.terms[0], stack.entry) == (axis == 1)


def test_one_term_that_convolves_tells_for_the_whole_stack() -> None:
    def forward(x: Tensor) -> Tensor:
        x = x + MLP(x.movedim(1, -1)).movedim(-1, 1)
        y: Tensor = x + CONVOLUTION(x)
        return y

    (stack,) = find_stacks(drawn(forward, normal(2, WIDTH, 5, 5))).stacks
    assert [convolves(term, term.skip) for term in stack.terms] == [False, True]
    assert channel_axis(stack) == 1
