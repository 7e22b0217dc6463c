"""Commands that several processes run together, and what the others do that `torchrun` starts.

Rank 0 speaks for all. The others are silent, and where they find wrong what every rank must find wrong, such as an
unknown option, they leave it to rank 0 to say so first. Other commands are refused: their processes
would write over each other's files.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from parallelize.machine.launch import is_one_of_several, is_silent, launched
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.terminal.words import listed
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    from collections.abc import Mapping

SHARED = ("convert", "heal", "plan", "run", "train")  # commands whose work ranks share
FIRST_WORD = 2.0  # seconds
ASKED_TO_END = 143  # the exit code after SIGTERM


class _Joined:
    """Whether the ranks have come together, so that rank 0 learns of an end by itself."""

    yes = False


@contextlib.contextmanager
def ranks_of_run() -> Iterator[Ranks]:
    """The processes of this run, of which there is one where nothing has started more.

    Raises:
        ParallelizeError: the environment is not that of one of several processes, or one of them is gone.
    """
    launch = launched()
    if launch is None:
        yield ALONE
        return
    from parallelize.machine.joined_ranks import joined

    with joined(launch) as ranks:
        _Joined.yes = True
        yield ranks


def refuse_alone(command: str | None, environment: Mapping[str, str]) -> None:
    """Refuse to run a command that cannot be shared in several processes.

    Raises:
        ParallelizeError: it is one.
    """
    if command is None or command in SHARED or not is_one_of_several(environment) or "RANK" not in environment:
        return
    raise ParallelizeError(
        f"`parallelize {command}` runs in one process, and {environment['WORLD_SIZE']} were started.",
        f"Run it without torchrun; {listed([f'`{name}`' for name in SHARED], 'and')} are shared by several processes.",
    )


@contextlib.contextmanager
def first_word_to_rank_0() -> Iterator[None]:
    """Let rank 0 say what is wrong before another rank ends, which makes `torchrun` end all."""
    try:
        yield
    except SystemExit as end:
        if end.code and is_one_of_several() and not _Joined.yes:
            _let_first_word(end.code)
        raise


def _let_first_word(code: object) -> None:
    if is_silent():
        time.sleep(FIRST_WORD)
    elif code == ASKED_TO_END:
        sys.stderr.write("error: This rank was asked to end before all ranks had come together.\n")
        sys.stderr.write("hint:  Look which of them has ended; start all of them again.\n")
