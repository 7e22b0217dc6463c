"""Width fusion on what horizontal fusion gets wrong elsewhere: cases from the bug reports of other compilers.

Whatever is fused or left alone, the numbers stay. One branch, equal branches, two widths, other epsilons, norms with
gains of their own, shared weights, second runs and metadata are tested in test_fuse_width.py, models in training mode
in test_capturing.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.fuse_width import FuseWidth
from passes.graph.operators import gemms
from passes.registry import PASSES
from passes.runner import PassRecord, run_passes
from passes.schedule.apply_plan import ApplyPlan
from tests.passes.models import (
    HIDDEN,
    TOKENS,
    WIDTH,
    Attention,
    Function,
    Mlp,
    fixed_graph_of,
    graph_of,
    normal,
    randomised,
    relative_error,
    run,
    text,
    tokens,
    wide_operators,
    wrong_metadata,
)

EXACT = 1e-10


def _level(*branches: nn.Module) -> fx.GraphModule:
    """A level of branches that read one state."""

    def forward(self: Function, x: Tensor) -> Tensor:
        y = x
        for branch in self.branches:
            y = y + branch(x)
        return y

    return fixed_graph_of(randomised(Function(forward, branches=nn.ModuleList(branches))), tokens())


def _fused(graph: fx.GraphModule, *inputs: Tensor) -> tuple[fx.GraphModule, PassRecord]:
    """The graph after the pass, whose numbers, metadata and second run are checked."""
    inputs = inputs or (tokens(),)
    fused, record = run(graph, FuseWidth(), *inputs)
    assert relative_error(fused(*inputs), graph(*inputs)) < EXACT
    assert wrong_metadata(fused, *inputs) == []
    again, second = run(fused, FuseWidth())
    assert second.matches == ()
    assert text(again) == text(fused)
    return fused, record


def _cleaned(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph after the passes that come before the schedule."""
    names = list(PASSES)
    steps = [PASSES[name]() for name in names[: names.index(ApplyPlan.name)]]  # type: ignore[abstract]
    return run_passes(graph, steps)[0]


# ----------------------------------------------------------------------------------------------- what branches read


def _two_states(make: Callable[[], nn.Module]) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    """Two equal branches that read two states."""

    def forward(self: Function, x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = self.a(x) + self.b(y)
        return z

    inputs = tokens(seed=1), tokens(seed=2)
    return fixed_graph_of(randomised(Function(forward, a=make(), b=make())), *inputs), inputs


def test_equal_branches_of_two_states_become_one_batched_product_and_one_out_projection() -> None:
    graph, inputs = _two_states(lambda: Mlp(nn.Identity()))
    fused, _ = _fused(graph, *inputs)
    assert wide_operators(fused) == {"linear": 1, "attention": 0, "norm": 0}
    assert sum(gemms(node) for node in fused.graph.nodes) == 2


def test_norms_of_two_states_become_one_norm_that_keeps_their_own_statistics() -> None:
    graph, inputs = _two_states(Mlp)
    fused, _ = _fused(graph, *inputs)
    assert wide_operators(fused) == {"linear": 1, "attention": 0, "norm": 1}


def test_a_branch_that_reads_another_branch_through_a_long_chain_is_not_fused_with_it() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        first = self.a(x)
        deep = first
        for _ in range(40):
            deep = torch.sin(deep)
        return x + first + self.b(deep)

    graph = fixed_graph_of(randomised(Function(forward, a=Mlp(), b=Mlp())), tokens())
    fused, record = _fused(graph)
    assert record.matches == ()
    assert text(fused) == text(graph)


def test_branches_that_share_a_hidden_value_share_no_more_than_the_out_projection() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        hidden = F.gelu(self.a(x))
        return x + self.c(hidden) + self.d(F.gelu(self.b(x + 0.1 * self.e(hidden))))

    parts = {name: nn.Linear(WIDTH, WIDTH) for name in "abcde"}
    graph = fixed_graph_of(randomised(Function(forward, **parts)), tokens())
    fused, record = _fused(graph)
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 3, "attention": 0, "norm": 0}


def test_a_state_of_one_dimension_keeps_its_numbers() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = x + self.a(x) + self.b(x)
        return y

    parts = {name: Mlp() for name in "ab"}
    vector = normal(WIDTH)
    graph = graph_of(randomised(Function(forward, **parts)), vector, dynamic=None)
    fused, _ = _fused(graph, vector)
    assert wide_operators(fused) == {"linear": 2, "attention": 0, "norm": 1}


# ------------------------------------------------------------------------------------------- what branches are made of


def test_branches_with_and_without_bias_share_the_norm_and_the_out_projection() -> None:
    fused, record = _fused(_level(Mlp(), Mlp(bias=False), Mlp(), Mlp(bias=False)))
    assert record.matches
    counts = wide_operators(fused)
    assert counts["norm"] == 1
    assert counts["linear"] == 2


@pytest.mark.parametrize("shape", [(1, 1, HIDDEN), (TOKENS, HIDDEN), (TOKENS, 1), (1,), ()])
def test_biases_that_broadcast_in_other_ways_keep_their_numbers(shape: tuple[int, ...]) -> None:
    def branch(shape: tuple[int, ...]) -> Function:
        def forward(self: Function, x: Tensor) -> Tensor:
            y: Tensor = self.down(F.relu(self.up(x) + self.bias))
            return y

        up = nn.Linear(WIDTH, HIDDEN, bias=False)
        return Function(forward, up=up, bias=torch.empty(shape), down=nn.Linear(HIDDEN, WIDTH))

    for level in (_level(branch((HIDDEN,)), branch(shape)), _level(branch(shape), branch(shape))):
        _, record = _fused(level)
        assert record.matches


def test_a_branch_in_single_precision_is_not_fused_with_branches_in_double() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.term = Mlp()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.term(x.float()).double()
            return y

    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = x + self.a(x) + self.b(x) + self.c(x)
        return y

    model = Function(forward, a=Mlp(), b=Mlp(), c=Single())
    randomised(model)
    assert isinstance(model.c, Single)
    model.c.term.float()
    graph = fixed_graph_of(model, tokens())
    fused, record = _fused(graph)
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 4, "attention": 0, "norm": 2}
    assert {parameter.dtype for parameter in fused.parameters()} == {torch.float32, torch.float64}


def test_branches_with_another_activation_are_a_group_of_their_own() -> None:
    fused, record = _fused(_level(Mlp(), Mlp(), Mlp(activation=F.relu)))
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 3, "attention": 0, "norm": 1}


def test_attentions_with_other_numbers_of_heads_are_not_one_attention() -> None:
    fused, record = _fused(_level(Attention("unbind", heads=2), Attention("unbind", heads=4)))
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 3, "attention": 2, "norm": 1}


def test_a_concatenation_of_other_widths_is_left_alone() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x)], -1)

    parts = {"a": nn.Linear(WIDTH, 3), "b": nn.Linear(WIDTH, 5)}
    graph = fixed_graph_of(randomised(Function(forward, **parts)), tokens())
    fused, record = _fused(graph)
    assert record.matches == ()
    assert text(fused) == text(graph)


def _written(product: Callable[[Tensor, Tensor, Tensor], Tensor], *, by_columns: bool) -> Function:
    """A branch whose products are written in some way, with weights by rows or by columns."""

    def forward(self: Function, x: Tensor) -> Tensor:
        return product(F.relu(product(x, self.first, self.shift)), self.second, self.bias)

    shapes = ((WIDTH, HIDDEN), (HIDDEN, WIDTH)) if by_columns else ((HIDDEN, WIDTH), (WIDTH, HIDDEN))
    first, second = (torch.empty(shape) for shape in shapes)
    return Function(forward, first=first, second=second, shift=torch.empty(HIDDEN), bias=torch.empty(WIDTH))


def _addmm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[1])


def test_a_linear_layer_is_the_same_however_it_is_written() -> None:
    branches = [
        _written(F.linear, by_columns=False),
        _written(torch._C._nn.linear, by_columns=False),
        _written(_addmm, by_columns=True),
        _written(lambda x, weight, bias: x @ weight + bias, by_columns=True),
        _written(lambda x, weight, bias: torch.matmul(x, weight.t()) + bias, by_columns=False),
    ]
    fused, record = _fused(_cleaned(_level(*branches)))
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 2, "attention": 0, "norm": 0}


def test_dropout_of_another_probability_is_nothing_outside_training() -> None:
    branches = [nn.Sequential(Mlp(), nn.Dropout(p)) for p in (0.1, 0.5)]
    fused, record = _fused(_cleaned(_level(*branches)))
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 2, "attention": 0, "norm": 1}


def test_dropout_in_training_mode_is_refused() -> None:
    def dropped(x: Tensor) -> Tensor:
        return F.dropout(F.relu(x), 0.5, training=True)

    graph = _level(Mlp(activation=dropped), Mlp(activation=dropped))
    fused, record = run(graph, FuseWidth())
    assert record.matches == ()
    assert [skip.reason for skip in record.skipped] == [
        "dropout (aten.dropout.default) draws random values, which the branches must not share"
    ] * 2
    assert text(fused) == text(graph)


def test_a_batch_norm_that_reads_its_batch_is_not_folded_and_keeps_its_numbers() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.relu(F.batch_norm(self.first(x), None, None, self.gain, self.shift, training=True)))
        return y

    def branch() -> Function:
        conv = [nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(2)]
        return Function(forward, first=conv[0], second=conv[1], gain=torch.empty(WIDTH), shift=torch.empty(WIDTH))

    def level(self: Function, x: Tensor) -> Tensor:
        y: Tensor = x + self.a(x) + self.b(x)
        return y

    pixels = normal(3, WIDTH, 5, 5)
    graph = fixed_graph_of(randomised(Function(level, a=branch(), b=branch())), pixels)
    fused, record = run(_cleaned(graph), FuseWidth(), pixels)
    assert relative_error(fused(pixels), graph(pixels)) < EXACT
    assert record.skipped == ()


# -------------------------------------------------------------------------------------------- what else reads its parts


def test_a_parameter_that_is_read_elsewhere_stays_as_it_was() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = x + self.a(x) + self.b(x)
        return F.linear(y, self.a.up.weight)

    model = Function(forward, a=Mlp(), b=Mlp())
    graph = fixed_graph_of(randomised(model), tokens())
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fused, record = _fused(graph)
    assert len(record.matches) == 1
    assert torch.equal(dict(fused.named_parameters())["a.up.weight"], before["a.up.weight"])
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_hidden_value_that_is_an_output_of_the_model_is_still_computed() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.gelu(self.first(x))
        return x + self.down(hidden) + self.b(x) + self.c(x), hidden

    parts = {"first": nn.Linear(WIDTH, HIDDEN), "down": nn.Linear(HIDDEN, WIDTH), "b": Mlp(), "c": Mlp()}
    graph = fixed_graph_of(randomised(Function(forward, **parts)), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    for actual, expected in zip(fused(tokens()), graph(tokens()), strict=True):
        assert relative_error(actual, expected) < EXACT
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 3, "attention": 0, "norm": 1}


def test_a_partial_sum_that_is_an_output_of_the_model_is_still_computed() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        partial = x + self.a(x) + self.b(x)
        return partial + self.c(x) + self.d(x), partial

    graph = fixed_graph_of(randomised(Function(forward, **{name: Mlp() for name in "abcd"})), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    for actual, expected in zip(fused(tokens()), graph(tokens()), strict=True):
        assert relative_error(actual, expected) < EXACT
    assert record.skipped == ()
    assert wide_operators(fused) == {"linear": 1, "attention": 0, "norm": 1}


def test_a_dozen_branches_become_one() -> None:
    fused, record = _fused(_level(*(Mlp() for _ in range(12))))
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 2, "attention": 0, "norm": 1}
