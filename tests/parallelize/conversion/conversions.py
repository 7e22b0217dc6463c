"""What the tests of conversions share: the smallest network to convert, and an end before the work begins."""

from __future__ import annotations

from parallelize.models.program import Program
from tests.parallelize.small_models import vision


def two_blocks() -> Program:
    """Two blocks, to be one block deep."""
    return vision(depth=2)


class SeenError(Exception):
    """Ends a conversion."""
