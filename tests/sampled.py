"""Of many parameters that show the same thing a part is quick; the slow tests have them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest


def sampled(cases: Mapping[str, Any] | Iterable[Any], every: int) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`, all but each `every`-th of them slow.

    Args:
        cases: parameters by their names, or parameters that are names; a tuple is several parameters.
        every: the first, and of those that follow each one after so many.
    """
    named = cases.items() if isinstance(cases, Mapping) else ((str(case), case) for case in cases)
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            id=name,
            marks=() if number % every == 0 else pytest.mark.slow,
        )
        for number, (name, case) in enumerate(named)
    ]
