"""Views, orders of dimensions, joins and pieces in other spellings, and those that are left as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from passes.clean.normalize_synonyms import NormalizeSynonyms
from passes.graph.operators import aten
from tests.passes.clean.spelled import check_spelling, operators, respelled
from tests.passes.drawn import drawn
from tests.passes.models import Function, graph_of, normal, run, text
from tests.sampled import sampled

X = normal(3, 4, 6)
ROWS = torch.tensor([2, 0])

Forward = Callable[[Tensor], Tensor]

SPELLINGS: dict[str, tuple[Forward, list[object] | None]] = {
    "view_as": (lambda x: x.flatten(1).view_as(x), [aten.flatten.using_ints, aten.reshape.default]),
    "reshape_as": (lambda x: x.mT.reshape_as(x), [aten.transpose.int, aten.reshape.default]),
    "expand_as": (lambda x: x[..., :1].expand_as(x), None),
    "broadcast_to": (lambda x: x[..., :1].broadcast_to(x.shape), None),
    "type_as": (lambda x: (x > 0).type_as(x), [aten.gt.Scalar, aten.to.dtype]),
    "swapaxes": (lambda x: x.swapaxes(1, 2), [aten.transpose.int]),
    "movedim of one": (lambda x: x.movedim(1, -1), [aten.transpose.int]),
    "movedim of several": (lambda x: x.movedim((1, 2), (2, 0)), [aten.permute.default]),
    "movedim to where it is": (lambda x: x.movedim(1, 1).exp(), [aten.exp.default]),
    "moveaxis": (lambda x: torch.moveaxis(x, 0, 2), [aten.permute.default]),
    "mT": (lambda x: x.mT, [aten.transpose.int]),
    "mH": (lambda x: x.mH, [aten.transpose.int]),
    "mT of complex numbers": (lambda x: torch.complex(x, x).mT.real, None),
    "adjoint": (lambda x: x.adjoint(), [aten.transpose.int]),
    "T of a matrix": (lambda x: x[:, 0].T, None),
    "H of a matrix": (lambda x: x[:, 0].H, None),
    "t of a matrix": (lambda x: x[:, 0].t(), None),
    "t of a vector": (lambda x: x[0, 0].t().exp(), None),
    "ravel": (lambda x: x.ravel(), [aten.reshape.default]),
    "squeeze": (lambda x: x[:, :1, None].squeeze(), None),
    "squeeze of nothing": (lambda x: x.squeeze().exp(), [aten.exp.default]),
    "tile": (lambda x: x.tile(2, 1), [aten.repeat.default]),
    "tile to more dimensions": (lambda x: x.tile(2, 1, 3, 1), [aten.repeat.default]),
    "hstack": (lambda x: torch.hstack((x, -x)), [aten.neg.default, aten.cat.default]),
    "hstack of vectors": (lambda x: torch.hstack((x[0, 0], x[0, :, 1])), None),
    "vstack": (lambda x: torch.vstack((x, -x)), [aten.neg.default, aten.cat.default]),
    "vstack of vectors": (lambda x: torch.vstack((x[0, 0], x[0, 1])), None),
    "row_stack": (lambda x: torch.row_stack((x, -x)), [aten.neg.default, aten.cat.default]),
    "dstack": (lambda x: torch.dstack((x, -x)), [aten.neg.default, aten.cat.default]),
    "column_stack": (lambda x: torch.column_stack((x, -x)), [aten.neg.default, aten.cat.default]),
    "column_stack of vectors": (lambda x: torch.column_stack((x[0, 0], x[0, 1])), None),
    "pieces by their number": (lambda x: x.tensor_split(4, -1)[1], [aten.split_with_sizes.default]),
    "pieces by where they begin": (lambda x: x.tensor_split((1, 3), 1)[1], [aten.split_with_sizes.default]),
    "pieces that end past the end": (lambda x: x.tensor_split((1, 9), 1)[1], [aten.split_with_sizes.default]),
    "hsplit": (lambda x: x.hsplit(2)[1], [aten.split_with_sizes.default]),
    "hsplit of a vector": (lambda x: x[0, 0].hsplit((1, 4))[1], None),
    "vsplit": (lambda x: x.vsplit((1,))[1], [aten.split_with_sizes.default]),
    "dsplit": (lambda x: x.dsplit((2, 3))[2], [aten.split_with_sizes.default]),
    "rows": (lambda x: x.index_select(-2, ROWS), [aten.index.Tensor]),
    "along places": (lambda x: x.take_along_dim(x.argsort(-1), -1), [aten.argsort.default, aten.gather.default]),
}


@pytest.mark.parametrize("name", sampled([*SPELLINGS], 2))
def test_each_spelling_becomes_the_one_that_other_passes_know(name: str) -> None:
    check_spelling(*SPELLINGS[name], X)


def test_a_shape_taken_from_another_tensor_no_longer_reads_it() -> None:
    graph, _ = respelled(lambda x, y: y.expand_as(x.sinh()), X, normal(3, 1, 6))
    assert operators(graph) == [aten.expand.default]


LEFT: dict[str, Forward] = {
    "a join of different ranks": lambda x: torch.vstack((x[0, 0], x[0])),
    "a join of numbers": lambda x: torch.hstack((x.sum(), x.mean())),
    "a dstack of matrices": lambda x: torch.dstack((x[0], x[1])),
    "places of fewer rows": lambda x: x.take_along_dim(x[:1].argsort(-1), -1),
    "places in all values": lambda x: x.take_along_dim(ROWS),
    "the adjoint of complex numbers": lambda x: torch.complex(x, x).adjoint().imag,
    "one row by a number": lambda x: x.index_select(1, ROWS[0]),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_other_spelling_stays(name: str) -> None:
    graph = drawn(LEFT[name], X)
    result, record = run(graph, NormalizeSynonyms())
    assert record.matches == ()
    assert text(result) == text(graph)


def test_pieces_of_a_size_that_only_the_run_tells_stay_and_a_squeeze_takes_ones_of_the_capture() -> None:
    def forward(_: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat(x.tensor_split((1,), 0)[::-1]), x[:, :1].squeeze()

    graph, record = run(graph_of(Function(forward).eval(), X), NormalizeSynonyms(), X)
    assert len(record.matches) == 1
    pieces, squeezed = graph(X[:1])
    assert torch.equal(pieces, X[:1])
    assert squeezed.shape == (1, 6)
