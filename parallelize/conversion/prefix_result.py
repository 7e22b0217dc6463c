"""What a conversion tells of the prefixes that it wrote."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PrefixNetwork:
    """The network of one prefix, or the one that answers after each.

    Attributes:
        name: in the tables.
        branches: of the last level that it has.
        files: that it was written to; empty where it was only measured.
        outputs: by their names.
    """

    name: str
    branches: int
    files: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class PrefixesWritten:
    """Prefixes of the last level of the network that was written.

    Attributes:
        level: the node in which that level ends.
        branches: that it has.
        scheduled: whether a schedule has put the branches side by side, so that no training has meant their prefixes.
        networks: one for each prefix.
        every: the network that answers after each; None where none was asked for.
        foretold: whether what the other branches add is foretold from the state, by a fit.
    """

    level: str
    branches: int
    scheduled: bool
    networks: tuple[PrefixNetwork, ...]
    every: PrefixNetwork | None = None
    foretold: bool = False
