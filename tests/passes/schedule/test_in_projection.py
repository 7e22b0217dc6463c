"""In-projections: a guess of what a term should read becomes part of its inner weights, exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph.editing import finish
from passes.graph.parameters import read_parameter
from passes.schedule.apply_plan import rewrite
from passes.schedule.in_projection import InProjection, in_projection, take_in
from passes.stacks.terms import Term
from tests.passes.models import (
    WIDTH,
    Attention,
    Convolution,
    Function,
    GatedMlp,
    Mlp,
    Residual,
    graph_of,
    normal,
    plan_of,
    randomised,
    relative_error,
    tokens,
    wrong_metadata,
)

MATRIX, SHIFT = normal(WIDTH, WIDTH, seed=5), normal(WIDTH, seed=6)


def _beside(terms: list[nn.Module], example: Tensor | None = None) -> tuple[Residual, fx.GraphModule, tuple[Term, ...]]:
    """Terms side by side: the model, its rewritten graph and the terms there; all read the input."""
    model = Residual(terms)
    randomised(model)
    graph = graph_of(model, tokens() if example is None else example)
    module, (site,) = rewrite(graph, plan_of(len(terms), [[[number] for number in range(len(terms))]]))
    return model, module, site.levels[0].terms


def _entry(module: fx.GraphModule) -> fx.Node:
    return module.graph.find_nodes(op="placeholder")[0]  # type: ignore[no-any-return]


def _place(module: fx.GraphModule, term: Term) -> InProjection:
    found = in_projection(term, _entry(module))
    assert isinstance(found, InProjection), found
    return found


def _guess(h: Tensor, shift: Tensor | None = SHIFT) -> Tensor:
    return h + h @ MATRIX.T + (0 if shift is None else shift)


def _mlp(term: nn.Module, read: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    y: Tensor = term.down(term.activation(term.up(read(term.norm(x)))))  # type: ignore[operator]
    return y


class Guessing(nn.Module):
    """A norm, and what it should have been."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return _guess(self.norm(x))


# ------------------------------------------------------------------------------------------------- exact in effect


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, nn.Identity])
def test_a_network_with_a_read_in_is_the_network_whose_term_reads_the_guess(norm: Callable[..., nn.Module]) -> None:
    model, module, terms = _beside([Mlp(norm(WIDTH)), Mlp(norm(WIDTH))])
    take_in(module, _place(module, terms[1]), MATRIX, SHIFT)
    finished = finish(module)
    x = tokens(7)
    with torch.no_grad():
        expected = x + model.terms[0](x) + _mlp(model.terms[1], _guess, x)
    assert relative_error(finished(x), expected) < 1e-10
    assert wrong_metadata(finished, x) == []


@pytest.mark.parametrize("projection", ["separate", "chunk"])
def test_queries_keys_and_values_all_read_the_guess(projection: str) -> None:
    model, module, terms = _beside([Attention(projection), Attention(projection)])  # type: ignore[arg-type]
    place = _place(module, terms[1])
    assert len(place.readers) == (3 if projection == "separate" else 1)
    take_in(module, place, MATRIX, SHIFT)
    x = tokens()
    with torch.no_grad():
        first = model.terms[0](x)
        model.terms[1].norm = Guessing(model.terms[1].norm)  # type: ignore[arg-type]
        expected = x + first + model.terms[1](x)
    assert relative_error(finish(module)(x), expected) < 1e-10


def test_a_gate_and_its_value_in_one_projection_both_read_the_guess() -> None:
    model, module, terms = _beside([GatedMlp(), GatedMlp()])
    take_in(module, _place(module, terms[1]), MATRIX, None)
    x = tokens()
    with torch.no_grad():
        first, second = model.terms
        gate, value = second.up(_guess(second.norm(x), None)).chunk(2, -1)  # type: ignore[operator]
        expected = x + first(x) + second.down(F.silu(gate) * value)  # type: ignore[operator]
    assert relative_error(finish(module)(x), expected) < 1e-10


def test_of_two_terms_behind_one_norm_only_the_one_meant_reads_the_guess() -> None:
    norm = nn.LayerNorm(WIDTH)
    model, module, terms = _beside([Mlp(norm), Mlp(norm)])
    take_in(module, _place(module, terms[0]), MATRIX, SHIFT)
    x = tokens()
    with torch.no_grad():
        expected = x + _mlp(model.terms[0], _guess, x) + model.terms[1](x)
    assert relative_error(finish(module)(x), expected) < 1e-10


def test_shared_weights_stay_with_the_other_term() -> None:
    term = Mlp()
    model, module, terms = _beside([term, term])
    take_in(module, _place(module, terms[0]), MATRIX, SHIFT)
    x = tokens()
    with torch.no_grad():
        expected = x + _mlp(model.terms[0], _guess, x) + model.terms[1](x)
    assert relative_error(finish(module)(x), expected) < 1e-10


def test_the_weights_keep_their_dtype_and_the_model_its_weights() -> None:
    model = Residual([Mlp(), Mlp()])
    randomised(model)
    model.float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    module, (site,) = rewrite(graph_of(model, tokens().float()), plan_of(2, [[[0], [1]]]))
    place = _place(module, site.levels[0].terms[1])
    take_in(module, place, MATRIX, SHIFT)
    stored = [read_parameter(module, node) for node in place.readers[0].args[1:]]  # type: ignore[arg-type]
    assert [value.dtype for value in stored] == [torch.float32] * 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ------------------------------------------------------------------------------------------------------- no bias


def test_a_shift_is_left_out_where_the_linear_has_no_bias() -> None:
    model, module, terms = _beside([Mlp(bias=False), Mlp(bias=False)])
    place = _place(module, terms[1])
    assert not place.has_bias
    take_in(module, place, MATRIX, SHIFT)
    assert [len([arg for arg in reader.args[1:] if arg is not None]) for reader in place.readers] == [1]
    x = tokens()
    with torch.no_grad():
        expected = x + model.terms[0](x) + _mlp(model.terms[1], lambda h: _guess(h, None), x)
    assert relative_error(finish(module)(x), expected) < 1e-10


def test_one_reader_without_a_bias_is_enough_to_have_no_shift() -> None:
    """The key projections of Whisper have none."""
    attention = Attention("separate")
    attention.key = nn.Linear(WIDTH, WIDTH, bias=False)
    _, module, terms = _beside([attention, Attention("separate")])
    assert not _place(module, terms[0]).has_bias
    assert _place(module, terms[1]).has_bias


# ------------------------------------------------------------------------------------------------------- refusals


def _refusal(terms: list[nn.Module], example: Tensor | None = None) -> str:
    _, module, found = _beside(terms, example)
    reason = in_projection(found[0], _entry(module))
    assert isinstance(reason, str)
    return reason


def test_a_term_that_convolves_the_state_is_refused() -> None:
    reason = _refusal([Convolution(), Convolution()], normal(3, WIDTH, 6, 6))
    assert reason == "x is read by conv2d, which is aten.conv2d.default and not a linear layer"


def test_a_term_that_reads_its_norm_elementwise_too_is_refused() -> None:
    def gated(self: Mlp, x: Tensor) -> Tensor:
        h = self.norm(x)
        y: Tensor = self.down(F.gelu(self.up(h))) * torch.sigmoid(h)
        return y

    def term() -> nn.Module:
        return Function(gated, norm=nn.LayerNorm(WIDTH), up=nn.Linear(WIDTH, 12), down=nn.Linear(12, WIDTH))

    reason = _refusal([term(), term()])
    assert reason == "layer_norm is read by sigmoid, which is aten.sigmoid.default and not a linear layer"


def test_a_linear_whose_weights_are_computed_is_refused() -> None:
    def computed(self: Mlp, x: Tensor) -> Tensor:
        return torch.tanh(F.linear(self.norm(x), torch.exp(self.weight) * x.mean()))  # type: ignore[arg-type]

    def term() -> nn.Module:
        return Function(computed, norm=nn.LayerNorm(WIDTH), weight=torch.empty(WIDTH, WIDTH))

    _, _, terms = _beside([term(), term()])
    source = next(node for node in terms[0].inner if node.target == torch.ops.aten.linear.default).args[0]
    assert isinstance(source, fx.Node)
    assert in_projection(terms[0], source) == "the weights of linear are computed and not stored"


def test_a_linear_that_reads_the_state_as_its_weights_is_refused() -> None:
    def product(self: Mlp, x: Tensor) -> Tensor:
        h = self.norm(x)
        return torch.tanh(torch.matmul(torch.softmax(torch.matmul(h, h.transpose(1, 2)), -1), h))

    reason = _refusal([Function(product, norm=nn.LayerNorm(WIDTH)), Function(product, norm=nn.LayerNorm(WIDTH))])
    assert reason.startswith("layer_norm is read by ")
    assert reason.endswith("and not a linear layer")


def test_a_term_that_does_not_read_the_node_is_refused() -> None:
    _, module, terms = _beside([Mlp(), Mlp()])
    (output,) = module.graph.find_nodes(op="output")
    total = output.all_input_nodes[0]
    assert in_projection(terms[0], total) == f"no linear layer of the term reads {total.name}"
