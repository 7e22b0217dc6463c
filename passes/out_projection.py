"""The outer coefficients of a term: the linear whose output the term adds to the state.

In the form sum_j alpha_j sigma(W_j x + b_j) these are the alpha_j. A refit changes them and leaves the inner weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from passes import operators as ops
from passes.apply_plan import LevelSite
from passes.infra import Skip
from passes.parameters import add_parameter, read_parameter


@dataclass(frozen=True)
class LevelFeatures:
    """What a refit of one level may combine anew.

    Attributes:
        outs: the out-projections of the level's chains, linear nodes.
        norm: a norm node of the state that a term of the level reads; None where no term has one.
        skipped: chains whose last term does not end in a linear, each with the reason.
    """

    outs: tuple[fx.Node, ...]
    norm: fx.Node | None
    skipped: tuple[Skip, ...]


def level_features(site: LevelSite) -> LevelFeatures:
    """Find the out-projections of a level: of each chain the last term's, as only that acts linearly on the sum."""
    ends = {chain[-1] for chain in site.level.chains}
    numbered = zip([number for chain in site.level.chains for number in chain], site.contributions, strict=True)
    outs, skipped = [], []
    for number, contribution in numbered:
        if number not in ends:
            continue
        if _is_stored_linear(contribution):
            outs.append(contribution)
            continue
        reason = f"{contribution.name} is {contribution.target} and not a linear layer with stored weights"
        skipped.append(Skip(contribution.name, reason))
    norms = [user for user in site.entry.users if user.target in ops.ROW_NORMS]
    return LevelFeatures(tuple(outs), norms[0] if norms else None, tuple(skipped))


def _is_stored_linear(node: fx.Node) -> bool:
    return node.target == ops.LINEAR and all(
        isinstance(arg, fx.Node) and arg.op == "get_attr" for arg in node.args[1:] if arg is not None
    )


def plain_norm(module: fx.GraphModule, norm: fx.Node) -> fx.Node:
    """A copy of a norm without gain and shift, inserted after it."""
    shape = norm.args[1]
    layer, epsilon = norm.target == ops.LAYER_NORM, ops.norm_epsilon(norm)
    with module.graph.inserting_after(norm):
        node = module.graph.call_function(
            norm.target,  # type: ignore[arg-type]
            (norm.args[0], shape, None, None, epsilon, False) if layer else (norm.args[0], shape, None, epsilon),
        )
    node.meta["val"] = norm.meta.get("val")
    return node


def add_to_out_projection(module: fx.GraphModule, out: fx.Node, change: Tensor) -> None:
    """Add `change` (out, in) to a linear's weight, on a copy: whoever shares the weight keeps the old one."""
    weight_node = out.args[1]
    assert isinstance(weight_node, fx.Node)
    weight = read_parameter(module, weight_node)
    changed = add_parameter(module, "refit_weight", (weight.double() + change).to(weight.dtype), out)
    changed.meta["val"] = weight_node.meta.get("val")
    out.update_arg(1, changed)


def add_affine_branch(
    module: fx.GraphModule, site: LevelSite, source: fx.Node, weight: Tensor, bias: Tensor
) -> fx.Node:
    """Add `source @ weight.T + bias` to the state after a level; returns the new state."""
    result = site.result
    users = list(result.users)
    with module.graph.inserting_after(result):
        total = module.graph.call_function(ops.ADD, (result, result))
    weight_node = add_parameter(module, "affine_weight", weight, total)
    bias_node = add_parameter(module, "affine_bias", bias, total)
    with module.graph.inserting_before(total):
        branch = module.graph.call_function(ops.LINEAR, (source, weight_node, bias_node))
    total.args = (result, branch)
    for node in (branch, total):
        node.meta["val"] = result.meta.get("val")
    for user in users:
        user.replace_input_with(result, total)
    return total
