"""What the branches that a prefix leaves out add, foretold from the state that all of them read.

    y_k = x + sum_{b <= k} f_b(x) + sum_{b > k} (A_b n(x) + c_b)       n: a norm of the state without gain, or the state

A prefix of a schedule was never meant to be used by itself. An affine function of the state for each branch, which is
found in closed form (parallelize/refitting/prefix_rest.py), stands for those that do not run: one product for all
prefixes, and after width fusion d more columns of the out-projection of one. The prefix of all branches has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from passes.graph import operators as ops
from passes.graph.parameters import store_parameter
from passes.prefixes.level import WideLevel
from passes.schedule.out_projection import plain_norm


@dataclass(frozen=True, eq=False)
class Rest:
    """An affine function of the state's norm for each branch.

    Attributes:
        weights: A_b (branches, d, d).
        biases: c_b (branches, d).
    """

    weights: Tensor
    biases: Tensor

    def of(self, branches: int) -> tuple[Tensor, Tensor]:
        """The sum over all branches behind the first ones: (d, d) and (d,)."""
        return self.weights[branches:].sum(0), self.biases[branches:].sum(0)


def source_of(module: fx.GraphModule, level: WideLevel) -> fx.Node | None:
    """What the affine functions read, inserted where it is not there; None where no state is added."""
    if level.state is None:
        return None
    norms = [user for user in level.state.users if user.target in ops.ROW_NORMS and user.args[0] is level.state]
    plain = [norm for norm in norms if len(norm.args) < 3 or norm.args[2] is None]
    if plain or not norms:
        return plain[0] if plain else level.state
    return plain_norm(module, norms[0])


def foretold(module: fx.GraphModule, level: WideLevel, rest: Rest, prefixes: tuple[int, ...], end: fx.Node) -> fx.Node:
    """What is foretold for some prefixes, inserted before `end`: stacked in front where there are several.

    Args:
        module: the graph, edited in place.
        level: with a state whose channels are on its last axis.
        rest: of its branches.
        prefixes: numbers of branches.
        end: a node behind all of them.
    """
    source = source_of(module, level)
    assert source is not None
    value = level.root.meta["val"]
    parts = [[part.to(value.device, value.dtype) for part in rest.of(count)] for count in prefixes]
    weight, bias = (torch.cat(list(column)) for column in zip(*parts, strict=True))
    call = module.graph.call_function
    stored = [store_parameter(module, f"rest_{what}", part, end) for what, part in (("weight", weight), ("bias", bias))]
    with module.graph.inserting_before(end):
        linear = call(ops.LINEAR, (source, *stored))
        if len(prefixes) == 1:
            return linear
        apart = call(ops.aten.unflatten.int, (linear, -1, [len(prefixes), -1]))
        rank = value.ndim + 1
        return call(ops.aten.permute.default, (apart, [rank - 2, *range(rank - 2), rank - 1]))
