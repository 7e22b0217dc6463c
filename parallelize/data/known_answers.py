"""What a network is known to answer to all samples that are stored."""

from __future__ import annotations

from dataclasses import dataclass

from parallelize.data.buffer import Kept


@dataclass(frozen=True, eq=False)
class KnownAnswers:
    """The outputs of one network.

    Attributes:
        network: whose they are, by identity: it must not have been changed since.
        outputs: one for each output tensor, samples first.
    """

    network: object
    outputs: tuple[Kept, ...]
