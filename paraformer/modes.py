"""Words that choose among Para-Formers; the command line reads them without torch."""

from __future__ import annotations

from typing import Literal

Mode = Literal["serial", "para-former"]
"""How the blocks run: one after another, or as branches that all read the embedding."""

Merge = Literal["added", "summed", "mean"]
"""What becomes of the branches: x + sum (b(x) - x), sum b(x) with each branch's own skip, or the mean of b(x)."""

Pooling = Literal["mean", "cls"]
"""What a classifier reads: the mean of the tokens, or a learned token that stands before them."""

Task = Literal["classify", "next-token"]
"""What a token model answers: one class for a sequence, or at each token what comes after it."""
