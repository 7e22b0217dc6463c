"""What a healing trains: private copies, tied where the model's weights are, and of nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from parallelize.healing.options import HealOptions, Trained
from parallelize.healing.weights import Weight, merged, trainable
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from passes.errors import ParallelizeError
from passes.graph.outputs import flat_outputs
from passes.graph.parameters import read_parameter
from passes.plan import Plan, grouped
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import Residual, capture_vectors, images, mlp, pairs, stack_plan, vectors, vision

CPU = torch.device("cpu")
PLAN = Plan(
    (grouped(8, [[(0, 1)], [(2, 3)], [(4, 5), (6, 7)]], refit="affine"),)
)  # blocks 2 and 3 side by side, behind 0 and 1


@pytest.fixture(scope="module")
def refitted() -> Refitted:
    return refit(vision().module, PLAN, images(60, 0), images(20, 1))


def _weights(refitted: Refitted, train: Trained, plan: Plan = PLAN, rank: int = 2) -> tuple[Weight, ...]:
    stacks = find_stacks(vision().module).stacks
    ends = [ours for ours, _ in refitted.ends]
    return trainable(refitted.module, stacks, plan, ends, HealOptions(train=train, rank=rank), CPU)


def _targets(weights: tuple[Weight, ...]) -> set[str]:
    return {str(node.target) for weight in weights for node in weight.nodes}


def _module(module: fx.GraphModule) -> tuple[Weight, ...]:
    """All weights of a graph that was not rewritten."""
    return trainable(module, (), Plan(()), (), HealOptions(), CPU)


def _shift(weights: tuple[Weight, ...]) -> None:
    with torch.no_grad():
        for leaf in {leaf for weight in weights for leaf in weight.leaves}:
            leaf.add_(1.0)


def test_all_are_the_parameters_of_the_graph_in_copies_of_their_own(refitted: Refitted) -> None:
    weights = _weights(refitted, "all")
    assert _targets(weights) == {str(node.target) for node in refitted.module.graph.find_nodes(op="get_attr")}
    before = {name: tensor.clone() for name, tensor in refitted.module.named_parameters()}
    _shift(weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in refitted.module.named_parameters())


def test_outer_are_norms_and_what_the_state_is_the_sum_of(refitted: Refitted) -> None:
    targets = _targets(_weights(refitted, "outer"))
    blocks = [f"blocks.{number}." for number in range(4)]
    expected = {"norm.weight", "norm.bias"}
    expected |= {str(n.target) for n in refitted.module.graph.find_nodes(op="get_attr") if "affine" in str(n.target)}
    parts = {target.removeprefix(block) for target in targets for block in blocks if target.startswith(block)}
    assert {target for target in targets if not target.startswith("blocks.")} == expected
    assert len(expected) == 6
    assert len(parts) == 8
    assert sum(read_parameter(refitted.module, node).ndim == 2 for node in _nodes(refitted, targets)) == 2 * 4 + 2


def _nodes(refitted: Refitted, targets: set[str]) -> list[fx.Node]:
    return [node for node in refitted.module.graph.find_nodes(op="get_attr") if str(node.target) in targets]


def test_adapters_are_on_the_linears_of_the_rewritten_levels_and_of_the_refit(refitted: Refitted) -> None:
    weights = _weights(refitted, "lora")
    targets = _targets(weights)
    assert all(target.startswith(("blocks.2.", "blocks.3.", "affine_weight", "read_in_weight")) for target in targets)
    assert len(targets) == 2 * 4 + 2
    assert all(leaf.shape[index] == 2 for weight in weights for index, leaf in enumerate(weight.leaves))


def test_adapters_begin_at_the_weights_and_add_a_product_of_their_rank(refitted: Refitted) -> None:
    weights = _weights(refitted, "lora")
    start = [read_parameter(refitted.module, weight.nodes[0]) for weight in weights]
    assert all(torch.equal(weight.value(), old) for weight, old in zip(weights, start, strict=True))
    _shift(weights)
    changes = [(weight.value() - old).detach() for weight, old in zip(weights, start, strict=True)]
    assert {int(torch.linalg.matrix_rank(change.double(), rtol=1e-4)) for change in changes} <= {1, 2}


def test_a_rank_beyond_that_of_the_matrix_is_cut(refitted: Refitted) -> None:
    assert {leaf.shape[0] for weight in _weights(refitted, "lora", rank=500) for leaf in weight.leaves[:1]} == {16}


@pytest.mark.parametrize("train", ["all", "outer", "lora"])
def test_merging_untouched_weights_changes_no_output(refitted: Refitted, train: Trained) -> None:
    inputs = next(iter(images(8, 3).batches(8)))
    made = merged(refitted.module, _weights(refitted, train))
    assert torch.equal(flat_outputs(made, inputs)[0], flat_outputs(refitted.module, inputs)[0])


def test_merged_weights_are_those_of_the_end(refitted: Refitted) -> None:
    weights = _weights(refitted, "all")
    _shift(weights)
    made = merged(refitted.module, weights)
    by_name = {node.name: node for node in made.graph.find_nodes(op="get_attr")}
    for node in refitted.module.graph.find_nodes(op="get_attr"):
        expected = read_parameter(refitted.module, node) + 1.0
        assert torch.equal(read_parameter(made, by_name[node.name]), expected)


class Tied(nn.Module):
    """A matrix that is read twice, and once more transposed."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(9.0, dtype=dtype).reshape(3, 3) / 9)
        self.register_buffer("shift", torch.ones(3, dtype=dtype))
        self.mask = nn.Parameter(torch.full((3,), -torch.inf, dtype=dtype), requires_grad=False)
        self.numbers = nn.Parameter(torch.arange(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x + self.shift.cos(), self.weight)
        y = nn.functional.linear(y, self.weight) @ self.weight
        return torch.where(y > self.mask, y, self.mask) + self.numbers


def _tied(dtype: torch.dtype = torch.float64) -> fx.GraphModule:
    program = capture(Tied(dtype).eval(), (torch.zeros(2, 3, dtype=dtype),), origin="tied")
    return clean(program, (torch.zeros(4, 3, dtype=dtype),))[0].module


def test_tied_weights_stay_tied_also_where_one_is_transposed() -> None:
    module = _tied()
    weights = _module(module)
    assert len({leaf for weight in weights for leaf in weight.leaves}) == 1
    _shift(weights)
    made = merged(module, weights)
    x = torch.randn(4, 3, dtype=torch.float64)
    model = Tied()
    with torch.no_grad():
        model.weight.add_(1.0)
        torch.testing.assert_close(flat_outputs(made, (x,))[0], model(x))


def test_buffers_what_is_computed_from_them_masks_and_integers_are_not_trained() -> None:
    module = _tied()
    trained = {node for weight in _module(module) for node in weight.nodes}
    rest = [node for node in module.graph.find_nodes(op="get_attr") if node not in trained]
    assert {tuple(read_parameter(module, node).shape) for node in rest} == {(3,)}
    assert len(rest) == 3


def test_half_precision_is_trained_in_float32_and_written_back_in_its_own_dtype() -> None:
    module = _tied(torch.bfloat16)
    weights = _module(module)
    (leaf,) = {leaf for weight in weights for leaf in weight.leaves}
    assert leaf.dtype == torch.float32
    assert {weight.value().dtype for weight in weights} == {torch.bfloat16}
    made = merged(module, weights)
    (before,), (after,) = (flat_outputs(m, (torch.ones(4, 3, dtype=torch.bfloat16),)) for m in (module, made))
    assert torch.equal(before, after)


def test_where_there_is_nothing_to_adapt_it_is_said() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.gain).tanh()

    program = capture_vectors(Residual([Scale(), Scale(), Scale()]), 4)
    plan = stack_plan(3, [[[0], [1], [2]]], "none")
    rewritten = refit(program.module, plan, vectors(10, 4, 0), vectors(10, 4, 1))
    stacks, ends = find_stacks(program.module).stacks, [ours for ours, _ in rewritten.ends]
    with pytest.raises(ParallelizeError, match="no weights to train with 'lora'"):
        trainable(rewritten.module, stacks, plan, ends, HealOptions(train="lora"), CPU)
    assert len(trainable(rewritten.module, stacks, plan, ends, HealOptions(train="outer"), CPU)) == 3


def test_a_refitted_level_that_deletes_blocks_has_adapters_on_its_affine_branches_only() -> None:
    program = capture_vectors(Residual([mlp(4, 8) for _ in range(3)]), 4)
    plan = stack_plan(3, [[[0]], [[2]]], "affine")
    deleted = refit(program.module, plan, vectors(50, 4, 0), vectors(20, 4, 1))
    stacks, ends = find_stacks(program.module).stacks, [ours for ours, _ in deleted.ends]
    weights = trainable(deleted.module, stacks, plan, ends, HealOptions(train="lora"), CPU)
    assert {str(node.target).rsplit("_", 1)[0] for weight in weights for node in weight.nodes} == {"affine_weight"}


def test_pairs_train_more_than_one_pair(refitted: Refitted) -> None:
    both = refit(vision().module, pairs("affine"), images(60, 0), images(20, 1))
    assert len(_weights(both, "lora", pairs("affine"))) > len(_weights(refitted, "lora"))
