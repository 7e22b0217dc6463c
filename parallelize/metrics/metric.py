"""A metric: what it reads of a batch, how an error is made of that, and how tables show it.

A network is compared sample by sample, and of a sample two numbers are kept, a and b. The value is

    value = g( sum over samples of a / sum over samples of b ),

so that a network is judged batch by batch, and a resampled set of samples only needs new sums. The error that a budget
limits is zero where two models agree and grows with the difference. It is the value itself where the value compares two
networks. Where each network has a value of its own, it is made of ours and the serial one:

    serial - ours        where higher is better: top-1, a score of the user's own
    ours / serial - 1    where lower is better: perplexity

A new metric is one file in `parallelize/metrics/catalogue/` with a `METRIC`. Describing one imports no torch, which the
help texts do without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from parallelize.metrics.batch import Batch

    Measured = tuple[Tensor, Tensor]  # a and b of each sample, (samples,) of float64
    OwnScore = Callable[[list[Tensor], list[Tensor], dict[str, Tensor]], Tensor]

Reads = Literal["numbers", "codes", "logits", "classes", "next tokens"]
LOGITS = ("one output of logits (samples, classes) or (samples, tokens, classes)", "Use --metric relative-l2.")
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Added:
    """What samples add to the sums of a metric, (samples,) of float64, or such sums.

    Attributes:
        ours: a, of the network that is judged.
        weight: b.
        serial: a, of the serial network, where each network has a value of its own.
    """

    ours: Tensor
    weight: Tensor
    serial: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Added:
        """All of them changed."""
        return Added(change(self.ours), change(self.weight), None if self.serial is None else change(self.serial))

    def equals(self, other: Added) -> bool:
        """Whether all numbers are the same."""
        pairs = ((self.ours, other.ours), (self.weight, other.weight), (self.serial, other.serial))
        return all(a is b or (a is not None and b is not None and a.equal(b)) for a, b in pairs)


@dataclass(frozen=True)
class Column:
    """How tables show a number.

    Attributes:
        heading: over the column, two lines at most.
        number: how it is written, as `format` takes it.
        bound: how the ends of its interval are written; None leaves the interval out.
    """

    heading: str
    number: str = ".4f"
    bound: str | None = ".4f"


@dataclass(frozen=True)
class Default:
    """For which outputs a metric is taken where none was asked for; of several, the first in the catalogue is.

    Attributes:
        where: in words.
        suits: whether outputs, on a few samples, are such.
    """

    where: str
    suits: Callable[[Sequence[Tensor]], bool]


def _as_is(ratio: Tensor) -> Tensor:
    return ratio


@dataclass(frozen=True)
class Metric:
    """What is measured of a network.

    Attributes:
        name: as `--metric` spells it.
        meaning: the error in words.
        measure: a and b of each sample of a batch; None where the batch lacks what the metric reads.
        column: how tables show the value where each network has one, else the error.
        place: in lists; smaller ones come first.
        reads: numbers; codes; logits, (samples, classes) and where asked for (samples, tokens, classes); logits
            (samples, classes) beside labels; logits (samples, tokens, vocabulary) beside the tokens that follow.
        g: of the formula above.
        better: which values are, where each network has one; None where the value compares two networks.
        percent_of: what a budget in percent is a share of; None where a percentage has no meaning.
        needs: what must be there for it, and how to come by it.
        default: where it is taken without being asked for.
        leads: whether it stands first in tables wherever it can be measured.
        beside: how tables show 1 - error beside another metric, where they have room.
        function: scores of the user's own, of a whole set of samples.
    """

    name: str
    meaning: str
    measure: Callable[[Batch], Measured | None]
    column: Column
    place: int
    reads: Reads = "numbers"
    g: Callable[[Tensor], Tensor] = _as_is
    better: Literal["higher", "lower"] | None = None
    percent_of: Literal["one", "serial"] | None = "one"
    needs: tuple[str, str] = ("", "")
    default: Default | None = None
    leads: bool = False
    beside: Column | None = None
    function: OwnScore | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def reads_logits(self) -> bool:
        """Whether it only has a meaning for outputs that are logits."""
        return self.reads in ("logits", "classes", "next tokens")

    def value(self, sums: Added) -> Tensor:
        """Of the network that is judged, one for each entry of the sums."""
        return self._ratio(sums.ours, sums.weight)

    def serial(self, sums: Added) -> Tensor | None:
        """Of the serial network; None where the value compares the two."""
        return None if sums.serial is None else self._ratio(sums.serial, sums.weight)

    def error(self, sums: Added) -> Tensor:
        """Zero where both models agree, larger is worse, infinite where it is no number."""
        found, serial = self.value(sums), self.serial(sums)
        if serial is not None:
            found = serial - found if self.better == "higher" else found / serial - 1
        return found.masked_fill(found.isnan(), math.inf)

    def _ratio(self, a: Tensor, b: Tensor) -> Tensor:
        return self.g(a / b.clamp_min(_TINY))
