"""Sums of products of tensors with letters: whatever the letters are, the operators compute what einsum does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from passes.clean.einstein import is_stored
from passes.graph.operators import LINEAR, aten
from tests.passes.clean.spelled import operators, respelled
from tests.passes.drawn import calls, drawn, inputs_of
from tests.passes.models import normal
from tests.sampled import sampled

SIZES = {"b": 3, "c": 3, "e": 2, "h": 2, "d": 6, "g": 5, "o": 5}


def _operand(letters: str, seed: int) -> Tensor:
    return normal(*(SIZES.get(letter, 4) for letter in letters.replace("...", "b")), seed=seed)


COMPUTED = {  # what it becomes, None where that may be one of several
    "bij,bjk->bik": [aten.matmul.default],
    "bij,bkj->bik": [aten.transpose.int, aten.matmul.default],
    "bhid,bhjd->bhij": [aten.transpose.int, aten.matmul.default],
    "bhij,bhjd->bhid": [aten.matmul.default],
    "bihd,bjhd->bhij": None,
    "...ij,...jk->...ik": [aten.matmul.default],
    "bij,bjk": None,
    "bij,bij->bij": [aten.mul.Tensor],
    "bij,bij->bi": [aten.mul.Tensor, aten.sum.dim_IntList],
    "bij,bij->": None,
    "bij,bj->bij": None,
    "bij,bj->bi": [aten.unsqueeze.default, aten.matmul.default, aten.squeeze.dim],
    "bi,bj->bij": None,
    "bij->bji": [aten.transpose.int],
    "bij->bj": [aten.sum.dim_IntList],
    "bij->": [aten.sum.dim_IntList],
    "...ij->...ji": [aten.transpose.int],
    "bii->bi": [aten.diagonal.default],
    "bii->b": [aten.diagonal.default, aten.sum.dim_IntList],
    "bhid,bhjd,bhje->bhie": None,
    "bhid,ejd->bhij": None,
    "bij,cij->bc": None,
}


@pytest.mark.parametrize("equation", sampled([*COMPUTED], 2))
def test_an_einsum_of_computed_values_becomes_what_it_means(equation: str) -> None:
    parts = equation.split("->", maxsplit=1)[0].split(",")
    graph, _ = respelled(lambda *x: torch.einsum(equation, *x), *map(_operand, parts, range(1, len(parts) + 1)))
    expected = COMPUTED[equation]
    assert aten.einsum.default not in operators(graph)
    assert expected is None or operators(graph) == expected


# with whether the stored operand becomes the weight of a linear
STORED = {
    "bid,od->bio": True,
    "od,bid->bio": True,
    "bid,od->boi": True,
    "bid,dhe->bhie": True,
    "bhie,hed->bid": True,
    "bid,d->bi": True,
    "...d,od->...o": True,
    "...d,dg": True,
    "bid,gd->bg": True,
    "bhid,hdg->bhig": False,
    "bhid,ijd->bhij": False,
    "bid,d->bid": False,
}


@pytest.mark.parametrize("equation", STORED)
def test_a_stored_operand_is_the_weight_of_a_linear_unless_it_has_a_letter_of_the_batch(equation: str) -> None:
    first, second = equation.split("->", maxsplit=1)[0].split(",")
    is_first = len(first) < len(second)
    weight = nn.Parameter(_operand(first if is_first else second, 1), requires_grad=False)

    def forward(x: Tensor) -> Tensor:
        return torch.einsum(equation, *((weight, x) if is_first else (x, weight)))

    graph, _ = respelled(forward, _operand(second if is_first else first, 2))
    assert (LINEAR in operators(graph)) == STORED[equation]
    assert aten.einsum.default not in operators(graph)


@st.composite
def _equations(draw: st.DrawFn) -> tuple[str, list[tuple[int, ...]]]:
    """Any equation of one to three operands and shapes for it, some sizes 1 in one operand only."""
    sizes = {letter: draw(st.integers(1, 3)) for letter in "abcde"}
    parts = ["".join(draw(st.lists(st.sampled_from("abcde"), max_size=4))) for _ in range(draw(st.integers(1, 3)))]
    present = sorted(set("".join(parts)))
    result = "".join(draw(st.permutations(draw(st.lists(st.sampled_from(present), unique=True))))) if present else ""
    shapes = []
    for part in parts:
        small = {letter for letter in part if draw(st.integers(0, 5)) == 0}
        shapes.append(tuple(1 if letter in small else sizes[letter] for letter in part))
    return f"{','.join(parts)}->{result}", shapes


@settings(max_examples=15)
@given(case=_equations(), stored=st.booleans())
def test_any_equation_has_the_values_of_einsum(case: tuple[str, list[tuple[int, ...]]], stored: bool) -> None:
    equation, shapes = case
    values = [normal(max(1, torch.Size(s).numel()), seed=n).reshape(s) for n, s in enumerate(shapes)]
    if stored and len(values) > 1:
        weight = nn.Parameter(values.pop(), requires_grad=False)
        respelled(lambda *x: torch.einsum(equation, *x, weight), *values)
    else:
        respelled(lambda *x: torch.einsum(equation, *x), *values)


def test_a_value_is_stored_where_it_is_made_of_parameters_alone() -> None:
    weight = nn.Parameter(normal(4, 4))
    graph = drawn(lambda x: x * weight.t().exp() * torch.ones(4), normal(4, 4))
    (exponential,), (ones,) = calls(graph, aten.exp.default), calls(graph, aten.ones.default)
    assert is_stored(exponential)
    assert not is_stored(ones)
    assert not is_stored(inputs_of(graph)[0])
    assert not any(is_stored(product) for product in calls(graph, aten.mul.Tensor))
