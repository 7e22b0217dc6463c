"""Write operators that have several spellings in one of them.

    x.swapaxes(1, 2)  ->  transpose(x, 1, 2)        x.view_as(y)     ->  reshape(x, sizes of y)
    x.max(-1)[0]      ->  amax(x, [-1])             x.std(-1)        ->  sqrt(var(x, [-1]))
    addcmul(x, a, b)  ->  x + a * b                 x.norm(dim=-1)   ->  sqrt(sum(x * x, [-1]))

so that every later pass knows one name for one thing, and an operator that reads a tensor only for its shape no longer
reads it.

Cases:
    1. other names (passes/clean/synonyms.py);
    2. shapes of other tensors, orders of dimensions, joins and pieces (passes/clean/synonyms_of_shapes.py);
    3. sums of products, statistics, norms (passes/clean/synonyms_of_numbers.py);
    4. einsum, tensordot and products with vectors (passes/clean/synonyms_of_products.py, passes/clean/einstein.py).

What fits no case stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from passes.clean import synonyms_of_numbers, synonyms_of_products, synonyms_of_shapes
from passes.clean.synonyms import RENAMED, Pieces, Spelling
from passes.graph.operators import GETITEM
from passes.graph.replacing import Replacing
from passes.runner import Pass, PassResult, Stage

SPELLINGS: dict[object, Spelling] = {
    **synonyms_of_shapes.SPELLINGS,
    **synonyms_of_numbers.SPELLINGS,
    **synonyms_of_products.SPELLINGS,
}
PIECES: dict[object, Pieces] = synonyms_of_numbers.PIECES


@dataclass(frozen=True)
class NormalizeSynonyms(Pass):
    """Write operators of several spellings, such as swapaxes, view_as, max of a dimension and norms, in one of them."""

    name: ClassVar[str] = "normalize-synonyms"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("keep-state-shape",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        matches: list[str] = []
        for node in list(module.graph.nodes):
            if node.op != "call_function":
                continue
            name = node.name
            renamed = node.target in RENAMED
            node.target = RENAMED.get(node.target, node.target)
            spelled = node.target in SPELLINGS and _spelled(module, node)
            parted = node.target in PIECES and _parted(module, node)
            matches.extend([name] if renamed or spelled or parted else [])
        return PassResult(tuple(matches))


def _spelled(module: fx.GraphModule, node: fx.Node) -> bool:
    place = Replacing(module, node)
    new = SPELLINGS[node.target](place, node)
    if new is None:
        return False
    place.replace(new)
    return True


def _parted(module: fx.GraphModule, node: fx.Node) -> bool:
    """Compute each result that is read by an operator of its own."""
    readers = list(node.users)
    if any(reader.target != GETITEM for reader in readers):
        return False
    for reader in readers:
        place = Replacing(module, reader)
        place.replace(PIECES[node.target][reader.args[1]](place, node))  # type: ignore[index]
    module.graph.erase_node(node)
    return True
