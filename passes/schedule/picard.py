"""The oracle: Picard iteration over depth, a check that needs no reference but the model itself.

    x_i^{k+1} = x_0 + sum_{j<i} f_j(x_j^k),     x_i^0 = x_0

One iteration is the fully parallel form (every term reads x_0); after n iterations the result is exactly the serial
network, whatever the weights. With Lip(f) <= a and |f| <= M the error after k steps is at most M a^k C(n, k+1).
A post-norm term counts as f(x) = N(x + g(x)) - x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from passes.graph.outputs import flat_leaves
from passes.graph.segment import extract
from passes.stacks.find import Stack, Term


def _term_function(module: fx.GraphModule, term: Term, placeholders: Sequence[fx.Node]) -> fx.GraphModule:
    """(inputs of the model, state) -> (the state after the term,)."""
    return extract(module, [*placeholders, term.skip], [term.result])


def picard(module: fx.GraphModule, stack: Stack, inputs: Sequence[Any], iterations: int) -> list[Tensor]:
    """The model's output tensors with `stack` replaced by `iterations` Picard steps.

    Args:
        module: the captured graph that `stack` was found in.
        stack: n terms; n iterations reproduce the serial network.
        inputs: flat inputs of the model.
        iterations: at least 1.
    """
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    with torch.no_grad():
        (entry,) = extract(module, placeholders, [stack.entry])(*inputs)
        terms = [_term_function(module, term, placeholders) for term in stack.terms]
        states = [entry] * (len(terms) + 1)
        for _ in range(iterations):
            following = [entry]
            for term, state in zip(terms, states, strict=False):
                following.append(following[-1] + (term(*inputs, state)[0] - state))
            states = following
        results = extract(module, [*placeholders, stack.exit], flat_leaves(module))(*inputs, states[-1])
    return [result for result in results if isinstance(result, Tensor)]
