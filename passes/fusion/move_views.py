"""Move views past operators that compute row by row, to where they meet other views and vanish.

    view(gelu(view(x)))              ->  gelu(view(x))
    join(norm(state + split(x)))     ->  norm(join(state) + x)       where two views become one

Cases:
    1. a view, permutation or run of them past pointwise operators and norms that it alone feeds, up to the next one
       (here), where the run that they make together needs fewer operators;
    2. leading dimensions of a whole region of pointwise operators, norms and sums joined into one, where fewer views
       at the region's borders are needed then (passes/fusion/row_forms.py);
    3. sizes among the arguments of a view that follow from the others are -1, so that nothing has to compute them.

Refused: operators that combine values with others that a view would have to follow, norms and other operators that
act on dimensions which the view changes, and results that would lie otherwise in memory (told with its reason).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import fx

from passes.clean.merge_views import after, chain_of, composed, counted, dying, is_step, merge_runs, source_of
from passes.fusion.row_forms import join_rows
from passes.fusion.rowwise import trailing_of
from passes.graph import operators as ops
from passes.graph.editing import erase_unread
from passes.graph.rearrangement import Rearrangement, Step, product, quotient
from passes.graph.replacing import Replacing
from passes.graph.shapes import complete_shapes
from passes.graph.view_nodes import Emitted, lies_alike, sizes_of
from passes.runner import Pass, PassResult, Skip, Stage


@dataclass(frozen=True)
class MoveViews(Pass):
    """Move views past operators that compute row by row, to where they meet others and vanish."""

    name: ClassVar[str] = "move-views"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "fuse"
    after: ClassVar[tuple[str, ...]] = ("fuse-width",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        result = PassResult()
        while True:
            found = merge_runs(module) + _sink(module) + join_rows(module)
            result += found
            if not found.matches:
                break
        return result + PassResult(_left_out(module))


# past operators -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Move:
    """A run of views from `source` to `node`, operators, and a run to `end`: all views together are `steps`."""

    source: fx.Node
    node: fx.Node
    path: tuple[fx.Node, ...]
    end: fx.Node
    steps: tuple[Step, ...]
    gain: int


def _sink(module: fx.GraphModule) -> PassResult:
    """Move every run of views past what it feeds where that saves operators."""
    result = PassResult()
    for node in list(module.graph.nodes):
        if not node._erased and is_step(node):
            result += _best_move(module, node)
    return result


def _best_move(module: fx.GraphModule, node: fx.Node) -> PassResult:
    skipped: tuple[Skip, ...] = ()
    for move in sorted(_moves(node), key=lambda move: -move.gain):
        names = ", ".join(operator.name for operator in move.path)
        if _move(module, move):
            return PassResult((f"{node.name} past {names} -> {counted(move.steps)}",))
        reason = f"{node.name} past {names} would be {counted(move.steps)}, which would lie otherwise in memory"
        skipped = skipped or (Skip(node.name, reason),)
    return PassResult((), skipped)


def _moves(node: fx.Node) -> list[_Move]:
    """The ways to move a run that ends with a node which save operators."""
    path, kept = _path(node)
    behind = _run_after(path[-1]) if path else []
    chain, moves = chain_of(node), []
    for length in range(1, len(chain) + 1):
        run = composed(chain[:length]) if behind and is_step(chain[length - 1]) else None
        if run is None or not _keeps(run, kept):
            continue
        for number, end in enumerate(behind, 1):
            run = after(run, end)
            if run is None:
                break
            saved, source = dying(chain[:length]) + number, source_of(chain[length - 1])
            moves += [_Move(source, node, path, end, steps, saved - len(steps)) for steps in run.steps()]
    return [move for move in moves if move.gain > 0]


def _path(node: fx.Node) -> tuple[tuple[fx.Node, ...], int]:
    """The operators row by row from a node to the next view, and how many last dimensions they need as they are."""
    path: list[fx.Node] = []
    needed = 0
    while len(node.users) == 1:
        (user,) = node.users
        if is_step(user):
            return tuple(path), needed
        kept = trailing_of(user, node)
        if kept is None:
            break
        path.append(user)
        node, needed = user, max(needed, kept)
    return (), 0


def _run_after(node: fx.Node) -> list[fx.Node]:
    """The views that follow a node one after another, each read by the next alone."""
    run: list[fx.Node] = []
    while len(node.users) == 1 and is_step(next(iter(node.users))):
        node = next(iter(node.users))
        run.append(node)
    return run


def _keeps(run: Rearrangement, count: int) -> bool:
    """Whether a rearrangement leaves the last dimensions as and where they are."""
    kept = run.source[len(run.source) - count :]
    if min(len(run.source), len(run.result)) < count or kept != run.result[len(run.result) - count :]:
        return False
    if product(kept) == 1:
        return True
    return run.order[-1] == len(run.atoms) - 1 and quotient(run.atoms[-1], product(kept)) is not None


def _move(module: fx.GraphModule, move: _Move) -> bool:
    """Let the operators read what the views read, with all views behind them; False where these cannot stand there."""
    first, last = move.path[0], move.path[-1]
    args, kwargs = first.args, first.kwargs
    first.replace_input_with(move.node, move.source)
    complete_shapes(module, move.path)
    emitted = Emitted.after(Replacing(module, move.end), last, move.steps)
    if emitted is None or emitted.reads >= move.gain or not lies_alike(emitted.node, move.end):
        if emitted is not None:
            emitted.abandon()
        first.args, first.kwargs = args, kwargs
        complete_shapes(module, move.path)
        return False
    move.end.replace_all_uses_with(emitted.node)
    erase_unread(move.end)
    erase_unread(move.node)
    return True


# sizes --------------------------------------------------------------------------------------------------------------


def _left_out(module: fx.GraphModule) -> tuple[str, ...]:
    """Leave the one free size of a view for the operator to find."""
    matches = []
    for node in module.graph.nodes:
        wanted = node.args[1] if node.op == "call_function" and node.target in ops.VIEWS else ()
        if not any(isinstance(size, fx.Node) for size in cast("Sequence[object]", wanted)):
            continue
        sizes = sizes_of(node)
        if sum(not isinstance(size, int) for size in sizes) == 1:
            node.args = (node.args[0], [size if isinstance(size, int) else -1 for size in sizes])
            matches.append(f"{node.name} finds its free size itself")
    return tuple(matches)
