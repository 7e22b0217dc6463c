"""What follows an add: a norm, an activation or a repair of the state belongs to the term before it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph.operators import LAYER_NORM, aten
from tests.passes.models import HIDDEN, WIDTH, Convolution, Function, Mlp, Residual, normal, written_out_gelu
from tests.passes.stacks.found import named_linears, only_stack, stacks_of, targets_of


def test_convolutions_with_an_activation_after_the_add_are_terms_that_end_in_it() -> None:
    model = Residual([Convolution() for _ in range(3)], [nn.ReLU() for _ in range(3)])
    stack = only_stack(stacks_of(model, normal(2, WIDTH, 6, 6)))
    assert stack.summary() == "3 convolution"
    assert [targets_of(term.post) for term in stack.terms] == [[aten.relu.default]] * 3
    assert stack.exit is stack.terms[-1].post[-1]


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_norm_after_the_add_belongs_to_the_term_of_a_post_norm_transformer(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, norm_first=norm_first, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    stack = only_stack(stacks_of(encoder))
    assert stack.summary() == "3 attention, 3 mlp"
    assert stack.blocks == ((0, 1), (2, 3), (4, 5))
    post = [] if norm_first else [LAYER_NORM]
    assert [targets_of(term.post) for term in stack.terms] == [post] * 6
    assert len({term.signature for term in stack.terms}) == 2


@pytest.mark.parametrize("post", [torch.nan_to_num, F.instance_norm])
def test_what_repairs_or_normalises_the_state_after_a_term_belongs_to_it(post: Callable[[Tensor], Tensor]) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "abc":
            x = post(x + getattr(self, name)(x))
        return x

    stack = only_stack(stacks_of(Function(forward, a=Mlp(), b=Mlp(), c=Mlp())))
    assert [len(term.post) for term in stack.terms] == [1, 1, 1]


def test_the_norm_behind_a_pre_norm_stack_is_no_part_of_its_last_term() -> None:
    stack = only_stack(stacks_of(Residual([Mlp(), Mlp()], head=nn.LayerNorm(WIDTH))))
    assert [term.post for term in stack.terms] == [(), ()]


def test_two_adds_to_one_state_and_a_norm_behind_them_are_one_term() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.relu((x + self.a(x)) + self.b(x))
        return x

    stack = only_stack(stacks_of(Function(forward, **named_linears(2))))
    assert [targets_of(term.norms) for term in stack.terms] == [[aten.relu.default]] * 2


def test_a_dropout_of_inference_behind_the_norm_does_not_part_a_stack() -> None:
    posts = [nn.Sequential(nn.LayerNorm(WIDTH), nn.Dropout()), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)]
    assert len(only_stack(stacks_of(Residual([Mlp(), Mlp(), Mlp()], posts))).terms) == 3


def test_an_add_that_is_read_beside_its_norm_links_no_stack() -> None:
    def forward(self: Function, x: Tensor, read: bool) -> tuple[Tensor, ...]:
        added = x + self.a(x)
        x = F.relu(added)
        x = F.relu(x + self.b(x))
        return (x, added) if read else (x,)

    linears = named_linears(2)
    linked = stacks_of(Function(lambda self, x: forward(self, x, read=False), **linears))
    parted = stacks_of(Function(lambda self, x: forward(self, x, read=True), **linears))
    assert [len(stack.terms) for stack in linked.stacks] == [2]
    assert [len(stack.terms) for stack in parted.stacks] == [1, 1]


def test_an_activation_written_out_behind_the_add_is_no_term() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "ab":
            x = written_out_gelu(x + getattr(self, name)(x))
        return x

    found = stacks_of(Function(forward, **named_linears(2)))
    assert all(term.parameters for stack in found.stacks for term in stack.terms)


def test_a_norm_after_each_block_belongs_to_the_last_block_too() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for first, second, norm in ("abp", "cdq", "efr"):
            x = x + getattr(self, first)(x)
            x = getattr(self, norm)(x + getattr(self, second)(x))
        return self.head(x)

    norms = {name: nn.LayerNorm(WIDTH) for name in "pqr"}
    stack = only_stack(stacks_of(Function(forward, **named_linears(6), **norms, head=nn.Linear(WIDTH, 3))))
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
    stack = only_stack(stacks_of(Function(forward, **named_linears(6), **norms, head=nn.Linear(WIDTH, 3))))
    assert [len(term.norms) for term in stack.terms] == [0, 0, 1] * 2


def test_a_norm_between_transpositions_belongs_to_its_term() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name, norm in ("ap", "bq", "cr"):
            x = getattr(self, norm)((x + getattr(self, name)(x)).transpose(1, 2)).transpose(1, 2)
        return x

    convolutions = {name: nn.Conv1d(WIDTH, WIDTH, 1) for name in "abc"}
    norms = {name: nn.LayerNorm(WIDTH) for name in "pqr"}
    stack = only_stack(stacks_of(Function(forward, **convolutions, **norms), normal(2, WIDTH, 6)))
    turned = [aten.transpose.int, LAYER_NORM, aten.transpose.int]
    assert [targets_of(term.norms) for term in stack.terms] == [turned] * 3
