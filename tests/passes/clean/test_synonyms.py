"""Second names: each is an operator with the same arguments in the same order, and computes the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from passes.clean.normalize_synonyms import PIECES, SPELLINGS
from passes.clean.synonyms import RENAMED
from passes.graph.operators import aten
from tests.passes.clean.spelled import operators, respelled
from tests.passes.models import normal

CHAINS: dict[str, tuple[Callable[[Tensor], Tensor], list[object]]] = {
    "arithmetic": (
        lambda x: x.multiply(x).subtract(1.0).true_divide(3.0).divide(x).negative(),
        [aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.div.Tensor, aten.neg.default],
    ),
    "limits": (
        lambda x: torch.fix(torch.max(x.absolute().clip(0.1, 1.0), x)),
        [aten.abs.default, aten.clamp.default, aten.maximum.default, aten.trunc.default],
    ),
    "comparisons": (
        lambda x: (a := x.greater(0.0)) & x.less_equal(1.0) | a,
        [aten.gt.Scalar, aten.le.Scalar, aten.bitwise_and.Tensor, aten.bitwise_or.Tensor],
    ),
    "functions": (
        lambda x: torch.special.expit(torch.special.erf(x)).arcsin().arctan2(x),
        [aten.erf.default, aten.sigmoid.default, aten.asin.default, aten.atan2.default],
    ),
    "joins and pieces": (
        lambda x: torch.concat(x.unsafe_chunk(2, -1)[::-1], -1),
        [aten.chunk.default, aten.cat.default],
    ),
    "softmax": (lambda x: torch.special.softmax(x, -1), [aten.softmax.int]),
}


@pytest.mark.parametrize("name", CHAINS)
def test_operators_are_called_by_their_first_name(name: str) -> None:
    forward, targets = CHAINS[name]
    graph, _ = respelled(forward, normal(3, 4, 6))
    assert operators(graph) == targets


def _arguments(target: torch._ops.OpOverload) -> list[str]:
    return [str(argument.type) for argument in target._schema.arguments]


def test_both_names_take_the_same_arguments() -> None:
    differ = {str(second) for second, first in RENAMED.items() if _arguments(second) != _arguments(first)}
    assert differ == set()


def test_no_first_name_is_a_second_one_and_no_operator_has_two_spellings() -> None:
    assert set(RENAMED).isdisjoint(RENAMED.values())
    assert set(RENAMED).isdisjoint(SPELLINGS)
    assert set(SPELLINGS).isdisjoint(PIECES)
