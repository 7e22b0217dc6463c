"""How fast a conversion was asked to be, and what was measured or predicted for it, beside the serial network."""

from __future__ import annotations

from dataclasses import dataclass

from parallelize.terminal.words import counted


@dataclass(frozen=True)
class Timed:
    """A network beside the serial one: timed in turn in one run, or predicted for a target.

    Attributes:
        depth_blocks: blocks on the longest path through its stacks.
        serial_ms: median milliseconds of the serial network.
        ms: its own.
    """

    depth_blocks: int
    serial_ms: float
    ms: float

    @property
    def speed_up(self) -> float:
        """The serial network's median over its own."""
        return self.serial_ms / self.ms

    def __str__(self) -> str:
        times = f"{self.ms:.3g} ms, serial {self.serial_ms:.3g} ms ({self.speed_up:.2f}x)"
        return f"{counted(self.depth_blocks, 'block')} deep, {times}"


@dataclass(frozen=True)
class Pace:
    """How fast a conversion was asked to be, and what it reached.

    Attributes:
        where: the backend that networks were timed on, or the GPU that they were predicted for.
        predicted: whether nothing was measured.
        min_speedup: that was asked for.
        max_latency_ms: that was asked for.
        drafts: schedules with their weights untouched, in the order in which they were timed.
        searched: what the search chose, fused, in the order in which it did; the last is the one that was taken. Empty
            where nothing was searched.
        product: what was written, timed at the end; None where it could not be run.
    """

    where: str
    predicted: bool
    min_speedup: float | None
    max_latency_ms: float | None
    drafts: tuple[Timed, ...] = ()
    searched: tuple[Timed, ...] = ()
    product: Timed | None = None

    @property
    def asked(self) -> str:
        """What was asked for, such as "a speed-up of 2 and 1.5 ms on onnxruntime"."""
        wanted = [] if self.min_speedup is None else [f"a speed-up of {self.min_speedup:g}"]
        wanted += [] if self.max_latency_ms is None else [f"{self.max_latency_ms:g} ms"]
        return f"{' and '.join(wanted)} on {self.where}{' (predicted)' * self.predicted}"

    @property
    def chosen(self) -> Timed | None:
        """What was taken, as it was timed before it was judged."""
        if self.searched:
            return self.searched[-1]
        reached = (timed for timed in self.drafts if self.is_reached(timed))
        return max(reached, key=lambda timed: timed.depth_blocks, default=None)

    def is_reached(self, timed: Timed) -> bool:
        """Whether a network is as fast as was asked for."""
        if self.min_speedup is not None and timed.serial_ms < self.min_speedup * timed.ms:
            return False
        return self.max_latency_ms is None or timed.ms <= self.max_latency_ms
