"""What a run of a network over samples tells."""

from __future__ import annotations

from collections.abc import Iterator

from parallelize.measuring.run import RunResult
from parallelize.terminal.words import counted, listed


def facts(result: RunResult) -> Iterator[str]:
    """Sentences, the headline first."""
    where = result.device if result.ranks == 1 else f"{result.device} of rank 0"
    each = 1e3 * result.seconds / result.samples
    yield (
        f"{counted(result.samples, 'sample')} in {result.seconds:.2f} s, {each:.3g} ms each:"
        f" {result.label} by {result.runner} on {where}, batch {result.batch}."
    )
    if result.spread is not None:
        yield f"{result.ranks} ranks share {counted(len(result.spread.matches), 'level')}, one all-reduce for each:"
        yield from (f"    {line}" for line in result.spread.matches)
    if result.score is not None:
        yield f"{result.score}"
    for name, shape in result.outputs.items():
        yield f"{name}: {'x'.join(map(str, shape)) or 'a single number'}"


def notes(result: RunResult) -> Iterator[str]:
    """What is left to every rank, each reason once."""
    found: dict[str, list[str]] = {}
    for skip in () if result.spread is None else result.spread.skipped:
        found.setdefault(skip.reason, []).append(skip.node)
    yield from (f"every rank runs {listed(nodes, 'and')}: {reason}" for reason, nodes in found.items())
