"""What a search for a schedule is asked for.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parallelize.machine.byte_size import read_size
from parallelize.terminal.option_field import Spelling, option
from passes.errors import ParallelizeError
from passes.plan import REFITS, Refit

LEAST_BUFFER = 2**22  # bytes that a job can be asked to be content with


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """In how much memory a job works.

    Attributes:
        buffer: memory beside the model's for what is computed of the samples and held, such as states and normal
            equations: bytes, or a string such as "512MiB". More goes into a temporary file.
    """

    buffer: int | str = option(
        "2GiB",
        "Memory beside the model's for states and normal equations, such as 512MiB; more goes into a temporary file.",
        metavar="SIZE",
        spelling=Spelling(str, default="2GiB"),
    )

    @property
    def buffer_bytes(self) -> int:
        """`buffer` in bytes.

        Raises:
            ParallelizeError: it is no amount of memory, or too little to work with.
        """
        return read_size(self.buffer, LEAST_BUFFER)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(MemoryOptions):
    """On what the whole job runs, cleaning, search, refit and judging, and in how much of the host's memory.

    Attributes:
        device: such as "cpu" or "cuda:1"; None is a GPU where there is one.
    """

    device: str | None = option(
        None, "cpu, cuda or cuda:N, of search, refit and judging (default: a GPU where there is one)."
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search.

    Attributes:
        refit: the strongest refit a level may get.
        seed: of the split of the data, part of the plans.
        time_limit: seconds after which no more groups and neighbours are measured; None measures all.
        refine: neighbours of the best schedule of a depth that are measured as whole networks, at most.

    Raises:
        ParallelizeError: what no search can do, before it has measured for minutes: an unknown refit, a time that is no
            number, or less than no neighbours.
    """

    refit: Refit = option("full", "The strongest closed-form refit a level may get.")
    seed: int = option(0, "Seeds the split of the data.")
    time_limit: float | None = option(
        None,
        "Measure no more groups of blocks, and no more changes of --refine, after so many seconds.",
        least=0.0,
        metavar="SECONDS",
    )
    refine: int = option(
        0,
        "Try N small changes of each depth's best schedule as whole networks, and keep those that are better.",
        least=0,
        metavar="N",
    )

    def __post_init__(self) -> None:
        if self.refit not in REFITS:
            raise ParallelizeError(f"There is no refit {self.refit!r}.", f"Use one of {', '.join(REFITS)}.")
        if self.time_limit is not None and not self.time_limit >= 0:
            raise ParallelizeError(f"A search cannot take {self.time_limit} seconds.", "Give a number of zero or more.")
        if self.refine < 0:
            raise ParallelizeError(f"A search cannot measure {self.refine} neighbours.", "Give a number of 0 or more.")


@dataclass(frozen=True)
class PlannerOptions(SearchOptions):
    """How to search, and where to keep what was measured.

    Attributes:
        longest_group: blocks of a group at most; None is all for stacks of up to 16 blocks, else 4.
        memory: file that keeps what was measured.
        resume: the same for a run that was not asked to keep anything: a file of another search is no error.

    Raises:
        ParallelizeError: as above, or groups of less than one block.
    """

    longest_group: int | None = None
    memory: Path | None = option(
        None, "Keep what is measured in FILE, and go on from it when the command is run again.", metavar="FILE"
    )
    resume: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest_group is not None and self.longest_group < 1:
            raise ParallelizeError(f"No group has {self.longest_group} blocks.", "Give a number of one or more.")
