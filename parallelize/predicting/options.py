"""Which GPU that is not here latencies are predicted for.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from parallelize.predicting.kernel import Precision
from parallelize.terminal.option_field import option


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """What latencies are predicted for.

    Attributes:
        target: a GPU, by its name or a file; None predicts none.
        target_precision: of the networks there; None is the first that the target has numbers for.
    """

    target: str | None = option(
        None,
        "Predict latency on this GPU as well: h200, or a file that `profile-gpu` wrote.",
        metavar="NAME|FILE",
    )
    target_precision: Precision | None = option(
        None, "Of the networks on the target (default: the first that it has numbers for)."
    )
