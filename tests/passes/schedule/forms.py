"""Schedules of a vision transformer of four blocks, in each form that has a name."""

from __future__ import annotations

from tests.passes.models import Levels

SERIAL: Levels = [[[term]] for term in range(8)]
SUBLAYER: Levels = [[[0], [2]], [[1], [3]], [[4], [6]], [[5], [7]]]
BLOCK: Levels = [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
PARA_FORMER: Levels = [[[0, 1], [2, 3], [4, 5], [6, 7]]]
GPT_J: Levels = [[[0], [1]], [[2], [3]], [[4], [5]], [[6], [7]]]
MIXED: Levels = [[[0]], [[1], [2, 3]], [[4], [5], [6]], [[7]]]
DELETED: Levels = [[[0]], [[3], [4]], [[7]]]
FORMS = {
    "sublayer": SUBLAYER,
    "block": BLOCK,
    "para-former": PARA_FORMER,
    "attention beside mlp": GPT_J,
    "mixed": MIXED,
    "deleted": DELETED,
    "first term deleted": [[[1], [2]], [[3]]],
    "last terms deleted": [[[0], [1]], [[2]]],
    "all on one level": [[[term] for term in range(8)]],
    "one chain of several terms": [[[0, 1, 2]], [[3], [4, 5]], [[6, 7]]],
    "all deleted": [],
}
