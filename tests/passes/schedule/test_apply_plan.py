"""Schedules on graphs: what a rewritten network computes is what its own terms compute when run as the plan says."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, fx, nn

from passes.clean.remove_identities import RemoveIdentities
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.graph.editing import clone
from passes.graph.measures import critical_gemms
from passes.graph.operators import ADD
from passes.graph.outputs import flat_outputs
from passes.plan import Level, Plan, StackPlan, serial
from passes.schedule.apply_plan import ApplyPlan, rewrite, schedule
from passes.stacks.find import find_stacks
from tests.passes.models import (
    HIDDEN,
    WIDTH,
    Attention,
    Convolution,
    Function,
    Levels,
    Mlp,
    Residual,
    Step,
    after_levels,
    graph_of,
    images,
    mlps,
    normal,
    plan_of,
    randomised,
    relative_error,
    run,
    scheduled,
    stack_plan,
    text,
    tokens,
    vision,
    vision_output,
    wrong_metadata,
)
from tests.passes.schedules import stack_plans

SERIAL: Levels = [[[term]] for term in range(8)]
SUBLAYER: Levels = [[[0], [2]], [[1], [3]], [[4], [6]], [[5], [7]]]
BLOCK: Levels = [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
PARA_FORMER: Levels = [[[0, 1], [2, 3], [4, 5], [6, 7]]]
GPT_J: Levels = [[[0], [1]], [[2], [3]], [[4], [5]], [[6], [7]]]
MIXED: Levels = [[[0]], [[1], [2, 3]], [[4], [5], [6]], [[7]]]
DELETED: Levels = [[[0]], [[3], [4]], [[7]]]
FORMS = {
    "sublayer": SUBLAYER,
    "block": BLOCK,
    "para-former": PARA_FORMER,
    "attention beside mlp": GPT_J,
    "mixed": MIXED,
    "deleted": DELETED,
    "first term deleted": [[[1], [2]], [[3]]],
    "last terms deleted": [[[0], [1]], [[2]]],
    "all on one level": [[[term] for term in range(8)]],
    "one chain of several terms": [[[0, 1, 2]], [[3], [4, 5]], [[6, 7]]],
    "all deleted": [],
}


@pytest.mark.parametrize("levels", FORMS.values(), ids=FORMS.keys())
def test_a_scheduled_transformer_computes_what_its_sublayers_compute_in_that_order(levels: Levels) -> None:
    model, graph = vision()
    rewritten = scheduled(graph, 8, levels)
    for batch in (1, 3, 7):
        assert relative_error(rewritten(images(batch)), vision_output(model, levels, images(batch))) < 1e-12
    assert relative_error(rewritten(images()), model(images())) > 1e-3
    assert wrong_metadata(rewritten, images(7)) == []


def test_the_serial_schedule_is_the_captured_graph_to_the_bit() -> None:
    model, graph = vision()
    rewritten, record = run(graph, ApplyPlan(plan_of(8, SERIAL)), images())
    assert text(rewritten) == text(graph)
    assert torch.equal(rewritten(images()), model(images()))
    assert record.error == 0.0


def test_one_chain_of_all_terms_is_the_captured_graph_too() -> None:
    _, graph = vision()
    assert text(scheduled(graph, 8, [[list(range(8))]])) == text(graph)


@settings(max_examples=15, deadline=None)
@given(stack_plans(terms=5))
def test_any_schedule_computes_what_its_terms_compute_in_that_order(plan: StackPlan) -> None:
    model, graph = mlps(5)
    levels = [[list(chain) for chain in level.chains] for level in plan.levels]
    rewritten, _ = run(graph, ApplyPlan(Plan((plan,))))
    with torch.no_grad():
        expected = after_levels(model.steps(), levels, tokens())
    assert relative_error(rewritten(tokens()), expected) < 1e-12
    assert wrong_metadata(rewritten, tokens()) == []


@functools.cache
def _encoder(norm_first: bool) -> tuple[nn.TransformerEncoder, fx.GraphModule]:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, norm_first=norm_first, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    randomised(encoder)
    return encoder, graph_of(encoder, tokens())


def _encoder_steps(encoder: nn.TransformerEncoder) -> list[Step]:
    def attention(layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
        if layer.norm_first:
            return x + layer._sa_block(layer.norm1(x), None, None)
        y: Tensor = layer.norm1(x + layer._sa_block(x, None, None))
        return y

    def perceptron(layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
        if layer.norm_first:
            return x + layer._ff_block(layer.norm2(x))
        y: Tensor = layer.norm2(x + layer._ff_block(x))
        return y

    return [functools.partial(step, layer) for layer in encoder.layers for step in (attention, perceptron)]  # type: ignore[list-item]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(
    "levels", [[[[0], [2]], [[1], [3]]], [[[0, 1], [2, 3]]], [[[0], [1]], [[2, 3]]], [[[0]], [[3]]]]
)
def test_pre_norm_and_post_norm_encoders_compute_what_their_sublayers_compute(norm_first: bool, levels: Levels) -> None:
    encoder, graph = _encoder(norm_first)
    with torch.no_grad():
        expected = after_levels(_encoder_steps(encoder), levels, tokens())
    rewritten = scheduled(graph, 4, levels)
    assert relative_error(rewritten(tokens()), expected) < 1e-12
    assert wrong_metadata(rewritten, tokens()) == []


def test_a_convolutional_network_counts_the_activation_after_the_add_as_part_of_the_term() -> None:
    model = Residual([Convolution() for _ in range(3)], [nn.ReLU() for _ in range(3)])
    pixels = normal(2, WIDTH, 6, 6)
    graph = graph_of(randomised(model), pixels)
    schedules: list[Levels] = [[[[0], [1], [2]]], [[[0, 1], [2]]], [[[0]], [[1], [2]]], [[[0], [2]]]]
    for levels in schedules:
        expected = after_levels(model.steps(), levels, pixels)
        assert relative_error(scheduled(graph, 3, levels)(pixels), expected) < 1e-12


def test_terms_keep_their_side_inputs() -> None:
    model = Residual([Attention("chunk") for _ in range(4)])
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    graph = graph_of(randomised(model), tokens(), mask)
    levels = [[[0], [1]], [[2, 3]]]
    with torch.no_grad():
        expected = after_levels(model.steps(mask), levels, tokens())
        without_mask = after_levels(model.steps(), levels, tokens())
    assert relative_error(scheduled(graph, 4, levels)(tokens(), mask), expected) < 1e-12
    assert relative_error(without_mask, expected) > 1e-3


def test_terms_that_read_the_shape_of_a_state_alone_run_side_by_side_and_fuse() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        for name in "ab":
            linear = getattr(self, name)
            x = x + torch.cat([torch.zeros_like(x), linear(x)], 1)[:, x.shape[1] :]
        return x

    model = Function(forward, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH))
    module = graph_of(randomised(model), tokens())
    (stack,) = find_stacks(module).stacks
    assert len(stack.terms) == 2
    paired, _ = rewrite(module, Plan((StackPlan(2, (Level(((0,), (1,))),)),)))
    assert critical_gemms(paired) == 1
    record = FuseWidth(dry=True).apply(clone(paired))
    assert len(record.present) == 2


def test_each_stack_of_a_model_gets_its_own_schedule() -> None:
    first, between, second = Residual([Mlp(), Mlp()]), nn.Linear(WIDTH, WIDTH), Residual([Mlp(), Mlp(), Mlp()])
    graph = graph_of(randomised(nn.Sequential(first, between, second)), tokens())
    schedules: list[Levels] = [[[[0], [1]]], [[[0], [1]], [[2]]]]
    plan = Plan(tuple(plan_of(terms, levels).stacks[0] for terms, levels in zip((2, 3), schedules, strict=True)))
    rewritten, record = run(graph, ApplyPlan(plan))
    with torch.no_grad():
        middle = between(after_levels(first.steps(), schedules[0], tokens()))
        expected = after_levels(second.steps(), schedules[1], middle)
    assert relative_error(rewritten(tokens()), expected) < 1e-12
    assert record.matches == ("0.terms: 2 terms on 1 levels", "2.terms: 3 terms on 2 levels")


@pytest.mark.parametrize("levels", [[[[0], [1]]], [[[0, 1], [2]]], [[[0]], [[1], [2]]], [[[0]], [[2]]]])
@pytest.mark.parametrize("post", [nn.Identity, nn.ReLU])
def test_two_adds_to_one_state_are_scheduled_as_one_term(levels: Levels, post: type[nn.Module]) -> None:
    linears = [(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)) for _ in range(3)]

    def steps() -> list[Step]:
        def step(pair: tuple[nn.Linear, nn.Linear], x: Tensor) -> Tensor:
            y: Tensor = post()((x + pair[0](x)) + torch.tanh(pair[1](x)))
            return y

        return [functools.partial(step, pair) for pair in linears]

    def forward(self: Function, x: Tensor) -> Tensor:
        for step in steps():
            x = step(x)
        return x

    parts = {f"{name}{number}": pair[i] for number, pair in enumerate(linears) for i, name in enumerate("ab")}
    graph = graph_of(randomised(Function(forward, **parts)), tokens())
    with torch.no_grad():
        expected = after_levels(steps(), levels, tokens())
    assert relative_error(scheduled(graph, 3, levels)(tokens()), expected) < 1e-12


@pytest.mark.parametrize("first", [[[[0], [1]]], [[[0]], [[1]]], [[[1]]], []])
def test_a_stack_that_begins_where_another_ends_is_scheduled_on_its_new_state(first: Levels) -> None:
    blocks = [term for _ in range(2) for term in (Attention("chunk"), Mlp())]
    model = Residual([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), *blocks])
    graph = graph_of(randomised(model), tokens())
    assert [len(stack.terms) for stack in find_stacks(graph).stacks] == [2, 4]
    second: Levels = [[[0], [2]], [[1], [3]]]
    rewritten, _ = run(graph, ApplyPlan(Plan((stack_plan(2, first), stack_plan(4, second)))))
    with torch.no_grad():
        middle = after_levels(model.steps()[:2], first, tokens())
        expected = after_levels(model.steps()[2:], second, middle)
    assert relative_error(rewritten(tokens()), expected) < 1e-12


def test_all_outputs_of_a_model_read_the_rewritten_state() -> None:
    stack = Residual([Mlp(), Mlp()])

    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        state = self.stack(x)
        return self.head(state), torch.tanh(state)

    model = Function(forward, stack=stack, head=nn.Linear(WIDTH, 3))
    graph = graph_of(randomised(model), tokens())
    rewritten = scheduled(graph, 2, [[[0], [1]]])
    with torch.no_grad():
        state = after_levels(stack.steps(), [[[0], [1]]], tokens())
        expected = (model.head(state), torch.tanh(state))
    for actual, wanted in zip(rewritten(tokens()), expected, strict=True):
        assert relative_error(actual, wanted) < 1e-12


def test_the_teacher_graph_is_not_changed() -> None:
    model, graph = vision()
    before, expected = text(graph), model(images())
    scheduled(graph, 8, SUBLAYER)
    rewrite(graph, plan_of(8, BLOCK))
    assert text(graph) == before
    assert torch.equal(graph(images()), expected)


def test_parameters_are_shared_with_the_teacher_and_those_of_deleted_terms_are_gone() -> None:
    _, graph = vision()
    rewritten = scheduled(graph, 8, DELETED)
    stored = dict(rewritten.named_parameters())
    teacher = dict(graph.named_parameters())
    assert all(parameter is teacher[name] for name, parameter in stored.items())
    missing = {name.rsplit(".", 1)[0] for name in teacher.keys() - stored.keys()}
    assert missing == {f"blocks.{block}.{name}" for block, name in [(0, "norm2"), (0, "up"), (0, "down")]} | {
        "blocks.1.norm1",
        "blocks.1.attention.qkv",
        "blocks.1.attention.out",
        "blocks.2.norm2",
        "blocks.2.up",
        "blocks.2.down",
        "blocks.3.norm1",
        "blocks.3.attention.qkv",
        "blocks.3.attention.out",
    }


def test_a_level_of_n_chains_takes_n_adds() -> None:
    _, graph = mlps(6)
    rewritten = scheduled(graph, 6, [[[0], [1], [2]], [[3], [4], [5]]])
    assert sum(node.target == ADD for node in rewritten.graph.nodes) == 6
    assert not any(node.target == torch.ops.aten.sub.Tensor for node in rewritten.graph.nodes)


def test_a_second_run_finds_other_stacks_and_refuses_the_plan() -> None:
    _, graph = vision()
    with pytest.raises(ParallelizeError, match="the model has"):
        scheduled(scheduled(graph, 8, SUBLAYER), 8, SUBLAYER)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (Plan(()), "The plan is for 0 stacks, the model has 1."),
        (Plan((serial(8), serial(8))), "The plan is for 2 stacks, the model has 1."),
        (Plan((serial(6),)), "The plan has 6 terms for the stack blocks, the model has 8."),
        (plan_of(8, [[[0]], [[9]]]), "The plan names term 9, the stack has 8 terms."),
        (plan_of(8, [[[0], [0]]]), "The plan runs term 0 twice."),
    ],
)
def test_a_plan_that_does_not_fit_the_model_is_refused_with_the_numbers(plan: Plan, sentence: str) -> None:
    _, graph = vision()
    with pytest.raises(ParallelizeError) as caught:
        run(graph, ApplyPlan(plan))
    assert str(caught.value) == sentence


def test_a_plan_for_another_model_points_at_inspect() -> None:
    with pytest.raises(ParallelizeError) as caught:
        run(vision()[1], ApplyPlan(Plan(())))
    assert "`parallelize inspect MODEL`" in caught.value.hint


def _values(graph: fx.GraphModule, nodes: list[fx.Node], *inputs: Tensor) -> list[Tensor]:
    """What the nodes hold when the graph runs."""
    observed = clone(graph)
    by_name = {node.name: node for node in observed.graph.nodes}
    output = next(iter(observed.graph.find_nodes(op="output")))
    output.args = (tuple(by_name[node.name] for node in nodes),)
    observed.recompile()
    return flat_outputs(observed, inputs)


@pytest.mark.parametrize("levels", [SUBLAYER, BLOCK, MIXED])
def test_each_site_of_a_level_names_the_state_before_it_what_its_terms_add_and_the_state_after(levels: Levels) -> None:
    _, graph = vision()
    rewritten, (site,) = rewrite(graph, plan_of(8, levels))
    assert [[list(chain) for chain in level.level.chains] for level in site.levels] == [
        list(map(list, v)) for v in levels
    ]
    assert all(node.graph is rewritten.graph for level in site.levels for node in (level.entry, level.result))
    for level in site.levels:
        entry, result, *contributions = _values(rewritten, [level.entry, level.result, *level.contributions], images())
        assert relative_error(entry + sum(contributions), result) < 1e-12
    for before, after in zip(site.levels, site.levels[1:], strict=False):
        assert before.result is after.entry


def test_the_sites_of_a_post_norm_model_count_the_norm_in_what_a_term_adds() -> None:
    model = Residual([Mlp() for _ in range(3)], [nn.LayerNorm(WIDTH) for _ in range(3)])
    rewritten, (site,) = rewrite(graph_of(randomised(model), tokens()), plan_of(3, [[[0], [1], [2]]]))
    (level,) = site.levels
    expected = [step(tokens()) - tokens() for step in model.steps()]
    for actual, wanted in zip(_values(rewritten, list(level.contributions), tokens()), expected, strict=True):
        assert relative_error(actual, wanted) < 1e-12


def test_the_terms_of_a_site_are_in_the_order_of_the_plan() -> None:
    _, graph = vision()
    stack = find_stacks(graph).stacks[0]
    _, (site,) = rewrite(graph, plan_of(8, [[[2, 3], [0, 1]]]))
    assert [term.module for term in site.levels[0].terms] == [stack.terms[number].module for number in (2, 3, 0, 1)]
    assert [term.kind for term in site.levels[0].terms] == ["attention", "mlp"] * 2


def test_a_schedule_in_place_leaves_every_node_behind_what_it_reads() -> None:
    edited = clone(vision()[1])
    schedule(edited, plan_of(8, SUBLAYER))
    edited.graph.lint()


def _added_in_place(self: Function, x: Tensor) -> Tensor:
    x = self.stem(x)
    for term in self.terms:
        x += term(x)
    return x


def _adds_in_place() -> tuple[Function, Callable[[Levels], Tensor]]:
    terms = nn.ModuleList(Mlp() for _ in range(4))
    model = Function(_added_in_place, stem=nn.Linear(WIDTH, WIDTH), terms=terms)
    randomised(model)

    def expected(levels: Levels) -> Tensor:
        with torch.no_grad():
            return after_levels(Residual(list(terms)).steps(), levels, model.stem(tokens()))

    return model, expected


def test_a_state_that_is_added_to_in_place_can_be_scheduled_in_sublayer_form() -> None:
    model, expected = _adds_in_place()
    levels = [[[0], [1]], [[2], [3]]]
    assert relative_error(scheduled(graph_of(model, tokens()), 4, levels)(tokens()), expected(levels)) < 1e-12


def test_a_state_that_is_added_to_in_place_can_be_scheduled_in_block_form() -> None:
    model, expected = _adds_in_place()
    levels = [[[0, 1], [2, 3]]]
    assert relative_error(scheduled(graph_of(model, tokens()), 4, levels)(tokens()), expected(levels)) < 1e-12


def _shared(*chains: tuple[int, ...]) -> Plan:
    return Plan((StackPlan(4, (Level(chains, shared=True),)),))


def test_a_shared_norm_is_the_last_terms_norm_of_the_sum_of_all_terms() -> None:
    encoder, graph = _encoder(norm_first=False)
    first, second = encoder.layers[0], encoder.layers[1]
    rewritten, _ = run(graph, ApplyPlan(_shared((0,), (1,), (2,), (3,))))
    x = tokens()
    with torch.no_grad():
        attention = first._sa_block(x, None, None) + second._sa_block(x, None, None)
        expected = second.norm2(x + attention + first._ff_block(x) + second._ff_block(x))
    assert relative_error(rewritten(x), expected) < 1e-12
    assert wrong_metadata(rewritten, tokens(7)) == []


def test_under_a_shared_norm_only_the_last_term_of_a_chain_goes_without_its_own() -> None:
    encoder, graph = _encoder(norm_first=False)
    rewritten, _ = run(graph, ApplyPlan(_shared((0, 1), (2, 3))))
    x = tokens()
    with torch.no_grad():
        states = [layer.norm1(x + layer._sa_block(x, None, None)) for layer in encoder.layers]
        ends = [y + layer._ff_block(y) for y, layer in zip(states, encoder.layers, strict=True)]
        expected = encoder.layers[1].norm2(x + (ends[0] - x) + (ends[1] - x))
    assert relative_error(rewritten(x), expected) < 1e-12


def test_a_chain_alone_on_its_level_has_its_own_norm_whether_it_is_shared_or_not() -> None:
    _, graph = _encoder(norm_first=False)
    levels = tuple(Level(((term,),), shared=True) for term in range(4))
    assert text(run(graph, ApplyPlan(Plan((StackPlan(4, levels),))))[0]) == text(graph)


def test_a_shared_norm_where_no_norm_follows_the_add_is_refused() -> None:
    _, graph = _encoder(norm_first=True)
    with pytest.raises(ParallelizeError, match=r"Level 0 of the plan shares a norm that the terms of .* do not have"):
        run(graph, ApplyPlan(_shared((0,), (1,), (2,), (3,))))


@pytest.mark.parametrize("chains", [((0,), (2,)), ((0, 1), (2, 3))])
def test_a_level_of_a_shared_norm_is_fused_exactly(chains: tuple[tuple[int, ...], ...]) -> None:
    graph, _ = run(_encoder(norm_first=False)[1], RemoveIdentities())
    rest = () if chains[0] == (0, 1) else (Level(((1,), (3,)), shared=True),)
    plan = Plan((StackPlan(4, (Level(chains, shared=True), *rest)),))
    rewritten, _ = run(graph, ApplyPlan(plan))
    fused, record = run(rewritten, FuseWidth(), tokens())
    assert record.skipped == ()
    assert len(record.matches) == 1 + len(rest)
    assert relative_error(fused(tokens()), rewritten(tokens())) < 1e-12


def test_what_reads_the_shape_of_a_later_state_reads_the_entry_s() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "ab":
            x = x + getattr(self, name)(x * (1 + torch.ones_like(x)))
        return x

    graph = graph_of(randomised(Function(forward, a=Mlp(), b=Mlp())), tokens())
    wide, (site,) = rewrite(graph, plan_of(2, [[[0], [1]]]))
    assert [len(term.output.users) for term in site.levels[0].terms] == [1, 1]
    readers = wide.graph.find_nodes(op="call_function", target=torch.ops.aten.ones_like.default)
    assert {node.args[0] for node in readers} == {site.levels[0].entry}
