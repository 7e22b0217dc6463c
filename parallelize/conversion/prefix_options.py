"""Which prefixes of the last level a conversion writes as well.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from parallelize.terminal.option_field import Spelling, option
from passes.errors import ParallelizeError

ALL = "all"
_HINT = f"Give numbers of branches such as 1,2,4, or {ALL}."


@dataclass(frozen=True, kw_only=True)
class PrefixOptions:
    """The networks of the first branches of the last level that has several.

    Attributes:
        prefixes: each of these is written to a file and measured: numbers of branches, as in (1, 2, 4) or "1,2,4", or
            "all"; None writes none.
        prefix_outputs: write a network as well that returns what each of these says, in one run; of all prefixes where
            none are chosen.
    """

    prefixes: str | Sequence[int] | None = option(
        None,
        "Write and measure the networks of the first branches of the last level as well: numbers of branches, or all.",
        metavar="N,N,..|all",
        spelling=Spelling(str | None),
    )
    prefix_outputs: bool = option(
        False, "Write a network that answers after each of these prefixes in one run (without --prefixes, after all)."
    )


def asked_prefixes(options: PrefixOptions) -> tuple[int, ...] | None:
    """The numbers of branches that were asked for, rising; empty is all of them, None is none.

    Raises:
        ParallelizeError: something else than numbers from 1 on.
    """
    asked = options.prefixes
    if asked is None:
        return () if options.prefix_outputs else None
    if isinstance(asked, str) and asked.strip() == ALL:
        return ()
    parts: Iterable[object] = asked.split(",") if isinstance(asked, str) else asked
    numbers = [_number(part, asked) for part in parts]
    if not numbers:
        raise ParallelizeError("No prefix is named.", _HINT)
    return tuple(sorted(set(numbers)))


def _number(part: object, asked: object) -> int:
    spelled = str(part).strip()
    if not spelled.isdecimal() or int(spelled) < 1:
        raise ParallelizeError(f"The prefixes {asked!r} are not numbers of branches from 1 on.", _HINT)
    return int(spelled)
