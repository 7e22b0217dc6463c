"""Stacks: what counts as a residual term, which terms are alike, and why an add is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph import operators as ops
from passes.stacks.find import Refusal, Stack, Stacks, find_stacks
from tests.passes.models import (
    HIDDEN,
    TOKENS,
    WIDTH,
    Attention,
    Convolution,
    Function,
    GatedMlp,
    LayerScale,
    Mlp,
    Residual,
    graph_of,
    mlps,
    normal,
    randomised,
    tokens,
    vision,
    written_out_gelu,
)

aten = torch.ops.aten


def _stacks(module: nn.Module, *example: Tensor) -> Stacks:
    return find_stacks(graph_of(randomised(module), *(example or (tokens(),)), dynamic=None))


def _only(found: Stacks) -> Stack:
    assert found.refused == ()
    (stack,) = found.stacks
    return stack


def _targets(nodes: Sequence[fx.Node]) -> list[object]:
    return [node.target for node in nodes]


def _linears(count: int) -> dict[str, nn.Module]:
    return {name: nn.Linear(WIDTH, WIDTH) for name in "abcdefgh"[:count]}


def test_a_vision_transformer_is_one_stack_of_attention_and_mlp() -> None:
    stack = _only(find_stacks(vision()[1]))
    assert [term.kind for term in stack.terms] == ["attention", "mlp"] * 4
    assert stack.summary() == "4 attention, 4 mlp"
    assert stack.name == "blocks"
    assert [term.module for term in stack.terms[:3]] == ["blocks.0", "blocks.0", "blocks.1"]


def test_the_state_goes_from_the_embedding_through_each_residual_add() -> None:
    _, graph = vision()
    stack = _only(find_stacks(graph))
    adds = [node for node in graph.graph.nodes if node.target == ops.ADD]
    assert [stack.entry, *(term.add for term in stack.terms)] == adds
    assert all(term.result is following.skip for term, following in zip(stack.terms, stack.terms[1:], strict=False))
    assert stack.exit is adds[-1]


def test_a_block_is_the_terms_that_repeat() -> None:
    stack = _only(find_stacks(vision()[1]))
    assert stack.period == 2
    assert stack.blocks == ((0, 1), (2, 3), (4, 5), (6, 7))


def test_every_term_of_a_stack_of_one_kind_is_a_block() -> None:
    assert _only(find_stacks(mlps()[1])).blocks == tuple((term,) for term in range(6))


def test_blocks_of_unequal_widths_repeat_by_kind() -> None:
    terms = [term for hidden in (8, 16, 24) for term in (Attention("chunk"), Mlp(hidden=hidden))]
    stack = _only(_stacks(Residual(terms)))
    assert len({term.signature for term in stack.terms}) == 4
    assert stack.blocks == ((0, 1), (2, 3), (4, 5))


def test_a_stack_that_repeats_nothing_has_blocks_of_one_term() -> None:
    stack = _only(_stacks(Residual([Attention("chunk"), Mlp(), Mlp(hidden=20)])))
    assert stack.blocks == ((0,), (1,), (2,))


def test_a_stack_of_terms_that_are_all_of_different_kinds_is_one_block() -> None:
    assert _only(_stacks(Residual([Attention("chunk"), Mlp()]))).blocks == ((0, 1),)


def test_terms_that_differ_in_parameter_values_only_have_one_signature() -> None:
    stack = _only(find_stacks(vision()[1]))
    attentions = {term.signature for term in stack.terms[::2]}
    perceptrons = {term.signature for term in stack.terms[1::2]}
    assert len(attentions) == len(perceptrons) == 1
    assert attentions != perceptrons


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: Mlp(hidden=HIDDEN + 1), id="hidden width"),
        pytest.param(lambda: Mlp(bias=False), id="bias"),
        pytest.param(lambda: Mlp(activation=F.relu), id="activation"),
        pytest.param(lambda: Mlp(activation=lambda x: F.gelu(x, approximate="tanh")), id="keyword of the activation"),
        pytest.param(lambda: Mlp(nn.LayerNorm(WIDTH, eps=1e-3)), id="epsilon"),
        pytest.param(lambda: Mlp(nn.LayerNorm(WIDTH, elementwise_affine=False)), id="gain and shift"),
        pytest.param(lambda: Mlp(nn.RMSNorm(WIDTH)), id="norm"),
        pytest.param(lambda: LayerScale(Mlp()), id="layer scale"),
    ],
)
def test_terms_that_differ_in_more_than_values_have_different_signatures(other: Callable[[], nn.Module]) -> None:
    stack = _only(_stacks(Residual([Mlp(), Mlp(), other()])))
    first, second, third = (term.signature for term in stack.terms)
    assert first == second
    assert first != third


def test_numbers_of_heads_make_different_signatures() -> None:
    stack = _only(_stacks(Residual([Attention("unbind", heads=2), Attention("unbind", heads=4)])))
    assert stack.terms[0].signature != stack.terms[1].signature


def test_equal_places_of_alike_terms_hold_corresponding_nodes() -> None:
    stack = _only(find_stacks(vision()[1]))
    first, second = stack.terms[0], stack.terms[2]
    assert _targets([n for n in first.nodes if n.op == "call_function" and n is not first.skip]) == _targets(
        [n for n in second.nodes if n.op == "call_function" and n is not second.skip]
    )
    names = [str(node.target).replace("blocks.0", "blocks.1") for node in first.parameters]
    assert names == [node.target for node in second.parameters]
    assert len(names) == 6


@pytest.mark.parametrize(
    ("term", "kind"),
    [
        (Mlp, "mlp"),
        (GatedMlp, "mlp"),
        (lambda: nn.Linear(WIDTH, WIDTH), "other"),
        (lambda: Attention("separate"), "attention"),
    ],
)
def test_the_kind_of_a_term_is_what_it_computes(term: Callable[[], nn.Module], kind: str) -> None:
    assert [t.kind for t in _only(_stacks(Residual([term(), term()]))).terms] == [kind, kind]


def test_attention_written_out_with_a_softmax_is_attention() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = x + self.v(torch.softmax(self.q(x) @ x.transpose(1, 2), -1) @ x)
        return y

    stack = _only(_stacks(Function(forward, q=nn.Linear(WIDTH, WIDTH), v=nn.Linear(WIDTH, WIDTH))))
    assert [term.kind for term in stack.terms] == ["attention"]


def test_convolutions_with_an_activation_after_the_add_are_terms_that_end_in_it() -> None:
    model = Residual([Convolution() for _ in range(3)], [nn.ReLU() for _ in range(3)])
    stack = _only(_stacks(model, normal(2, WIDTH, 6, 6)))
    assert stack.summary() == "3 convolution"
    assert [_targets(term.post) for term in stack.terms] == [[aten.relu.default]] * 3
    assert stack.exit is stack.terms[-1].post[-1]


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_norm_after_the_add_belongs_to_the_term_of_a_post_norm_transformer(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, norm_first=norm_first, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    stack = _only(_stacks(encoder))
    assert stack.summary() == "3 attention, 3 mlp"
    assert stack.blocks == ((0, 1), (2, 3), (4, 5))
    post = [] if norm_first else [ops.LAYER_NORM]
    assert [_targets(term.post) for term in stack.terms] == [post] * 6
    assert len({term.signature for term in stack.terms}) == 2


@pytest.mark.parametrize("post", [torch.nan_to_num, F.instance_norm])
def test_what_repairs_or_normalises_the_state_after_a_term_belongs_to_it(post: Callable[[Tensor], Tensor]) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "abc":
            x = post(x + getattr(self, name)(x))
        return x

    stack = _only(_stacks(Function(forward, a=Mlp(), b=Mlp(), c=Mlp())))
    assert [len(term.post) for term in stack.terms] == [1, 1, 1]


def test_the_norm_behind_a_pre_norm_stack_is_no_part_of_its_last_term() -> None:
    stack = _only(_stacks(Residual([Mlp(), Mlp()], head=nn.LayerNorm(WIDTH))))
    assert [term.post for term in stack.terms] == [(), ()]


def test_the_norm_after_the_add_is_part_of_the_signature() -> None:
    posts = [nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, eps=1e-3), nn.LayerNorm(WIDTH)]
    stack = _only(_stacks(Residual([Mlp(), Mlp(), Mlp(), Mlp()], posts)))
    signatures = [term.signature for term in stack.terms]
    assert signatures[0] == signatures[1] == signatures[3]
    assert signatures[0] != signatures[2]


def test_two_adds_to_one_state_are_one_term() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(2):
            x = (x + self.a(x)) + self.b(x) + self.c(torch.tanh(x))
        return x

    stack = _only(_stacks(Function(forward, **_linears(3))))
    first, second = stack.terms
    assert _targets(first.joined) == [ops.LINEAR, ops.LINEAR]
    assert _targets(first.post) == [ops.ADD, ops.ADD]
    assert first.norms == ()
    assert len(first.parameters) == 6
    assert first.result is second.skip
    assert first.signature == second.signature


def test_two_adds_to_one_state_and_a_norm_behind_them_are_one_term() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.relu((x + self.a(x)) + self.b(x))
        return x

    stack = _only(_stacks(Function(forward, **_linears(2))))
    assert [_targets(term.norms) for term in stack.terms] == [[aten.relu.default]] * 2


def test_a_sum_that_is_read_between_two_adds_to_one_state_makes_them_no_term() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        first = x + self.a(x)
        return first + torch.tanh(self.b(x)), torch.exp(first)

    found = _stacks(Function(forward, **_linears(2)))
    assert [len(stack.terms) for stack in found.stacks] == [1]
    skip = "linear (linear layer from 8 to 8), so no term leaves the state as it is"
    assert [refusal.node for refusal in found.refused] == ["add_1"]
    assert found.refused[0].reason == f"the skip path of add_1 is not the state inputs_0 but {skip}"


def test_a_dropout_of_inference_behind_the_norm_does_not_part_a_stack() -> None:
    posts = [nn.Sequential(nn.LayerNorm(WIDTH), nn.Dropout()), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)]
    assert len(_only(_stacks(Residual([Mlp(), Mlp(), Mlp()], posts))).terms) == 3


def test_a_term_before_blocks_that_repeat_is_a_stack_of_its_own() -> None:
    terms = [nn.Linear(WIDTH, WIDTH), *(term for _ in range(2) for term in (Attention("chunk"), Mlp()))]
    found = _stacks(Residual([*terms, Mlp(hidden=20)]))
    assert [stack.summary() for stack in found.stacks] == ["1 other", "2 attention, 2 mlp", "1 mlp"]
    assert found.stacks[1].blocks == ((0, 1), (2, 3))
    assert found.stacks[0].exit is found.stacks[1].entry


def test_an_add_inside_a_written_out_activation_is_part_of_the_term() -> None:
    stack = _only(_stacks(Residual([Mlp(activation=written_out_gelu) for _ in range(3)])))
    assert stack.summary() == "3 mlp"
    inner_adds = [node for node in stack.terms[0].inner if node.target in ops.ADDS]
    assert len(inner_adds) == 2


def test_a_residual_add_with_weights_inside_a_term_is_part_of_the_term() -> None:
    def term() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), Residual([nn.Linear(WIDTH, WIDTH)]), nn.Linear(WIDTH, WIDTH))

    stack = _only(_stacks(Residual([term(), term()])))
    assert len(stack.terms) == 2
    assert all(len(term.parameters) == 6 for term in stack.terms)


def test_a_mask_is_a_side_input_of_the_terms_that_read_it() -> None:
    model = Residual([Attention("chunk"), Attention("chunk")])
    found = _stacks(model, tokens(), torch.ones(TOKENS, TOKENS, dtype=torch.bool))
    stack = _only(found)
    assert [[side.op for side in term.sides] for term in stack.terms] == [["placeholder"], ["placeholder"]]
    assert stack.terms[0].sides == stack.terms[1].sides
    assert stack.terms[0].signature == stack.terms[1].signature


def test_terms_that_read_different_side_inputs_have_different_signatures() -> None:
    def forward(self: Function, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        x = x + self.a(x * left)
        x = x + self.b(x * right)
        y: Tensor = x + self.c(x * left)
        return y

    stack = _only(_stacks(Function(forward, **_linears(3)), tokens(), tokens(), tokens()))
    first, second, third = (term.signature for term in stack.terms)
    assert first == third
    assert first != second


def test_sizes_are_no_side_inputs() -> None:
    assert all(term.sides == () for term in _only(find_stacks(vision()[1])).terms)


def test_the_skip_may_be_the_right_operand_of_the_add() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = self.a(x) + x
        y: Tensor = self.b(x) + x
        return y

    assert len(_only(_stacks(Function(forward, **_linears(2)))).terms) == 2


def test_a_model_may_have_several_stacks_in_the_order_of_execution() -> None:
    encoder, decoder = Residual([Mlp(), Mlp(), Mlp()]), Residual([Attention("chunk"), Mlp()])
    found = _stacks(nn.Sequential(encoder, nn.Linear(WIDTH, WIDTH), decoder))
    assert [stack.summary() for stack in found.stacks] == ["3 mlp", "1 attention, 1 mlp"]
    assert [stack.name for stack in found.stacks] == ["0.terms", "2.terms"]
    assert found.terms == 5
    assert found.refused == ()


def test_the_last_state_of_one_stack_may_be_a_side_input_of_another() -> None:
    def forward(self: Function, x: Tensor, y: Tensor) -> Tensor:
        x = x + self.a(x)
        x = x + self.b(x)
        y = y + self.c(y * x)
        z: Tensor = y + self.d(y * x)
        return z

    found = _stacks(Function(forward, **_linears(4)), tokens(), tokens(seed=2))
    assert [len(stack.terms) for stack in found.stacks] == [2, 2]
    assert found.refused == ()
    encoder, decoder = found.stacks
    assert [term.sides for term in decoder.terms] == [(encoder.exit,), (encoder.exit,)]


def test_terms_without_a_common_module_are_named_by_number() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = x + self.a(x)
        y: Tensor = x + self.b(x)
        return y

    assert _only(_stacks(Function(forward, **_linears(2)))).name == "stack0"


def test_a_model_without_residual_adds_has_no_stacks() -> None:
    found = _stacks(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)))
    assert found == Stacks(())
    assert found.terms == 0


def test_a_projected_shortcut_is_refused_with_the_map_that_stands_for_the_state() -> None:
    found = _stacks(Function(lambda self, x: self.a(x) + torch.tanh(self.b(x)), **_linears(2)))
    reason = (
        "the skip path of add is not the state inputs_0 but linear (linear layer from 8 to 8),"
        " so no term leaves the state as it is"
    )
    assert found == Stacks((), (Refusal("add", reason),))


def test_a_convolution_on_the_skip_path_ends_the_stack_and_begins_another() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = F.relu(x + self.a(x))
        x = F.relu(x + self.b(x))
        x = F.relu(self.skip(x) + self.narrow(F.relu(self.c(x))))
        y: Tensor = F.relu(x + self.d(x))
        return y

    convolutions = {name: nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for name in "abc"}
    narrow = {name: nn.Conv2d(WIDTH, 4, 1, stride=2) for name in ("skip", "narrow")}
    model = Function(forward, **convolutions, **narrow, d=nn.Conv2d(4, 4, 3, padding=1))
    found = _stacks(model, normal(2, WIDTH, 6, 6))
    reason = (
        "the skip path of add_2 is not the state relu_1 but conv2d_2 (1x1 convolution from 8x6x6 to 4x3x3),"
        " so the block changes the state and ends the stack"
    )
    assert found.refused == (Refusal("add_2", reason),)
    assert [len(stack.terms) for stack in found.stacks] == [2, 1]


def test_branches_on_one_state_are_parallel_already_and_told_once() -> None:
    model = Function(lambda self, x: sum(torch.tanh(getattr(self, n)(x)) for n in "abc") + 0.0, **_linears(3))
    (refusal,) = _stacks(model).refused
    assert refusal.reason.endswith("is a sum of 3 branches that all read inputs_0: they are parallel already")


def test_what_the_branches_add_to_one_state_is_told_once() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        branches = []
        for first, second in ((self.a, self.b), (self.c, self.d), (self.e, self.f)):
            y = x + torch.tanh(first(x))
            branches.append(y + torch.tanh(second(y)))
        return branches[0] + (branches[1] - x) + (branches[2] - x)

    found = _stacks(Function(forward, **_linears(6)))
    assert [len(stack.terms) for stack in found.stacks] == [2, 2, 2]
    (refusal,) = found.refused
    assert refusal.reason.endswith("they are parallel already")


def test_sums_of_embeddings_rotary_tables_and_masks_are_no_residual_adds() -> None:
    def forward(self: Function, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places(ids.cumsum(1))
        bias = (1 - mask) * -1e9 + mask * 0.5
        y: Tensor = x + self.a(torch.tanh(x) + bias)
        return y

    embeddings = {name: nn.Embedding(100, WIDTH) for name in ("words", "places")}
    ids = torch.ones(3, TOKENS, dtype=torch.int64)
    assert len(_only(_stacks(Function(forward, **embeddings, **_linears(1)), ids, tokens())).terms) == 1


def test_an_activation_written_out_in_a_head_is_no_residual_add() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = x + self.a(x)
        y: Tensor = self.b(written_out_gelu(self.c(x)))
        return y

    assert len(_only(_stacks(Function(forward, **_linears(3)))).terms) == 1


def test_a_scaled_add_is_refused_with_its_scale() -> None:
    model = Function(lambda self, x: torch.add(x, self.a(x), alpha=2), **_linears(1))
    reason = "add adds 2 times linear (alpha), not linear itself"
    assert _stacks(model) == Stacks((), (Refusal("add", reason),))


def test_an_add_that_broadcasts_is_refused_with_what_it_broadcasts() -> None:
    model = Function(lambda self, x: x + self.a(x).mean(1, keepdim=True), **_linears(1))
    assert _stacks(model) == Stacks((), (Refusal("add", "add broadcasts mean over the state inputs_0"),))


def test_a_term_with_an_inner_value_that_is_read_elsewhere_is_refused_with_both_nodes() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.a(x)
        inner = torch.tanh(self.b(x))
        x = x + self.c(inner)
        return x + self.d(x), torch.exp(inner)

    found = _stacks(Function(forward, **_linears(4)))
    assert found.refused == (Refusal("add_1", "tanh inside the term is also read by exp outside it"),)
    assert [len(stack.terms) for stack in found.stacks] == [1, 1]


def test_a_term_that_reads_an_earlier_state_is_refused_with_that_state() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        first = x + self.a(x)
        second = first + self.b(first)
        third = second + self.c(second * first)
        y: Tensor = third + self.d(third)
        return y

    found = _stacks(Function(forward, **_linears(4)))
    assert found.refused == (Refusal("add_2", "mul also reads add, an earlier state of the stack"),)
    assert [len(stack.terms) for stack in found.stacks] == [2, 1]


def test_a_side_input_computed_from_the_state_of_the_stack_is_refused() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        x = x + self.a(x)
        y: Tensor = x + self.b(x * gate)
        return y

    found = _stacks(Function(forward, **_linears(2)))
    assert found.refused == (Refusal("add_1", "mul also reads sigmoid, an earlier state of the stack"),)


def test_an_add_that_is_read_beside_its_norm_links_no_stack() -> None:
    def forward(self: Function, x: Tensor, read: bool) -> tuple[Tensor, ...]:
        added = x + self.a(x)
        x = F.relu(added)
        x = F.relu(x + self.b(x))
        return (x, added) if read else (x,)

    linears = _linears(2)
    linked = _stacks(Function(lambda self, x: forward(self, x, read=False), **linears))
    parted = _stacks(Function(lambda self, x: forward(self, x, read=True), **linears))
    assert [len(stack.terms) for stack in linked.stacks] == [2]
    assert [len(stack.terms) for stack in parted.stacks] == [1, 1]


def test_a_term_whose_inner_value_is_an_output_by_name_is_refused() -> None:
    def forward(self: Function, x: Tensor) -> dict[str, Tensor]:
        inner = torch.tanh(self.a(x))
        return {"state": x + self.b(inner), "inner": inner}

    found = _stacks(Function(forward, **_linears(2)))
    assert found.refused == (Refusal("add", "tanh inside the term is also read by output outside it"),)


def test_a_term_around_a_longer_stack_is_refused() -> None:
    inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), Residual([Mlp(), Mlp(), Mlp()]))
    found = _stacks(Residual([inner]))
    assert found.refused == (Refusal("add_3", "the term holds a longer stack of its own"),)
    assert [stack.summary() for stack in found.stacks] == ["3 mlp"]


def test_the_other_terms_of_a_chain_with_a_refused_term_are_kept_or_refused() -> None:
    inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), Residual([Mlp() for _ in range(6)]))
    found = _stacks(Residual([nn.Linear(WIDTH, WIDTH), inner, nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)]))
    assert found.terms + len(found.refused) == 10


def test_a_term_without_parameters_that_no_term_follows_is_refused() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = x + self.a(x)
        y: Tensor = x + torch.tanh(x)
        return y

    assert _stacks(Function(forward, **_linears(1))).refused == (Refusal("add_1", "the term has no parameters"),)


def test_a_term_without_parameters_is_a_term_where_another_reads_its_result() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = x + self.a(x)
        x = x + x.roll(1, 1)
        y: Tensor = x + self.b(x)
        return y

    stack = _only(_stacks(Function(forward, **_linears(2))))
    assert [bool(term.parameters) for term in stack.terms] == [True, False, True]


@pytest.mark.parametrize("mixing_first", [True, False])
def test_blocks_of_a_term_without_parameters_and_one_with_them_repeat(mixing_first: bool) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "abc":
            x = x + x.roll(1, 1) if mixing_first else x + getattr(self, name)(x)
            x = x + getattr(self, name)(x) if mixing_first else x + x.roll(1, 1)
        return x

    stack = _only(_stacks(Function(forward, **_linears(3))))
    assert stack.blocks == ((0, 1), (2, 3), (4, 5))


def test_a_term_without_parameters_and_one_with_them_on_one_state_are_one_term() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "ab":
            x = x + x.roll(1, 1) + getattr(self, name)(x)
        return x

    stack = _only(_stacks(Function(forward, **_linears(2))))
    assert [len(term.joined) for term in stack.terms] == [1, 1]


def test_an_activation_written_out_behind_the_add_is_no_term() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "ab":
            x = written_out_gelu(x + getattr(self, name)(x))
        return x

    found = _stacks(Function(forward, **_linears(2)))
    assert all(term.parameters for stack in found.stacks for term in stack.terms)


def test_a_norm_after_each_block_belongs_to_the_last_block_too() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for first, second, norm in ("abp", "cdq", "efr"):
            x = x + getattr(self, first)(x)
            x = getattr(self, norm)(x + getattr(self, second)(x))
        return self.head(x)

    norms = {name: nn.LayerNorm(WIDTH) for name in "pqr"}
    stack = _only(_stacks(Function(forward, **_linears(6), **norms, head=nn.Linear(WIDTH, 3))))
    assert [len(term.norms) for term in stack.terms] == [0, 1] * 3
    assert len({stack.terms[i].signature for i in (1, 3, 5)}) == 1


def test_a_norm_after_each_block_of_many_terms_belongs_to_the_last_block_too() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for block, norm in (("abc", self.p), ("def", self.q)):
            for name in block:
                x = x + getattr(self, name)(x)
            x = norm(x)
        return self.head(x)

    norms = {name: nn.LayerNorm(WIDTH) for name in "pq"}
    stack = _only(_stacks(Function(forward, **_linears(6), **norms, head=nn.Linear(WIDTH, 3))))
    assert [len(term.norms) for term in stack.terms] == [0, 0, 1] * 2


def test_a_norm_between_transpositions_belongs_to_its_term() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name, norm in ("ap", "bq", "cr"):
            x = getattr(self, norm)((x + getattr(self, name)(x)).transpose(1, 2)).transpose(1, 2)
        return x

    convolutions = {name: nn.Conv1d(WIDTH, WIDTH, 1) for name in "abc"}
    norms = {name: nn.LayerNorm(WIDTH) for name in "pqr"}
    stack = _only(_stacks(Function(forward, **convolutions, **norms), normal(2, WIDTH, 6)))
    turned = [aten.transpose.int, ops.LAYER_NORM, aten.transpose.int]
    assert [_targets(term.norms) for term in stack.terms] == [turned] * 3


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda table, x: table.type_as(x), id="type_as"),
        pytest.param(lambda table, x: table + torch.zeros_like(x), id="zeros_like"),
        pytest.param(lambda table, x: table.expand_as(x), id="expand_as"),
        pytest.param(lambda table, x: table + x.new_ones(x.shape), id="new_ones"),
        pytest.param(lambda table, x: table + torch.full_like(x, 0.5), id="full_like"),
        pytest.param(lambda table, x: table.to(x), id="to another tensor"),
        pytest.param(lambda table, x: (table + 0 * torch.ones_like(x)).reshape_as(x), id="reshape_as"),
    ],
)
def test_reading_the_dtype_or_shape_of_a_state_is_no_data_flow(read: Callable[[Tensor, Tensor], Tensor]) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        first = x + self.a(x)
        table = read(self.table, x)
        second = first + self.b(first * table)
        y: Tensor = second + self.c(second * read(self.table, first))
        return y

    stack = _only(_stacks(Function(forward, **_linears(3), table=normal(1, TOKENS, WIDTH))))
    assert len(stack.terms) == 3


def test_a_step_towards_what_a_term_computes_is_a_term_to_the_last() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "abc":
            x = x + 0.3 * (getattr(self, name)(x) - x)
        return x

    assert len(_only(_stacks(Function(forward, **_linears(3)))).terms) == 3


def test_a_difference_of_branches_on_one_state_is_told() -> None:
    (refusal,) = _stacks(Function(lambda self, x: torch.tanh(self.a(x)) - torch.tanh(self.b(x)), **_linears(2))).refused
    assert refusal.reason.endswith("is a sum of 2 branches that all read inputs_0: they are parallel already")
