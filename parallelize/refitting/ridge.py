"""Ridge regression from rows that come in batches.

    minimise  |F D - R|^2 + lambda sum_j s_j |D_j|^2,      s_j = sum of squares of feature j

The ridge is scaled by each feature's own second moment, which makes lambda a pure number. The last column may be the
constant, which is not penalised. Two forms of the problem have the same solution: `moments` for more rows than
columns, `rows` for fewer. Memory grows neither with the data nor with the columns: both forms are kept by blocks in the
buffer of the job, and blocks beyond its bound in a file, where they are still solved exactly.

Conjugate gradients would need no matrix, but there are hundreds of targets: a step for all of them costs as many
products with each row as hundreds of columns of a factorisation do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from parallelize.refitting.equations import Form
from parallelize.refitting.moments import FromMoments, Moments
from parallelize.refitting.rows import FromRows
from parallelize.refitting.solution import Solution

RIDGES = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


def solver(fit: Form, *, constant: bool = True) -> Callable[[float], Solution]:
    """What solves for one ridge after another; `constant` says whether the last column is the constant."""
    return FromMoments(fit, constant=constant) if isinstance(fit, Moments) else FromRows(fit, constant=constant)


@dataclass(frozen=True, eq=False)
class Choice:
    """The best ridge on held-out rows, D (columns, targets), and the relative error |F D - R|^2 / |R|^2 there."""

    ridge: float
    solution: Solution
    error: float


def choose(fit: Form, held_out: Form, ridges: Sequence[float] = RIDGES, *, constant: bool = True) -> Choice:
    """Pick the ridge whose solution on `fit` is best on `held_out`.

    From the middle of the ridges one goes to the side that is better, as long as it gets better, which spares half of
    the factorisations: the error on held-out rows falls and rises once over the ridges, but where the rows are hardly
    more than the columns, and there the best one near the middle is taken.
    """
    scale, solution = max(held_out.target, 1e-300), solver(fit, constant=constant)

    def tried(place: int) -> Choice:
        found = solution(ridges[place])
        return Choice(ridges[place], found, held_out.lack(found) / scale)

    middle = len(ridges) // 2
    best = start = tried(middle)
    for side in (range(middle - 1, -1, -1), range(middle + 1, len(ridges))):
        for place in side:
            choice = tried(place)
            if choice.error >= best.error:
                break
            best = choice
        if best is not start:
            break
    return best
