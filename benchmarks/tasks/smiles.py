"""Tokens of reaction SMILES: an atom in brackets is one token, and so is every bond, ring number and bracket.

The expression is the one of Schwaller et al., "Molecular Transformer", arXiv 1811.02633, which the rxnfp models read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

START, END, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
_TOKEN = re.compile(
    r"%\([0-9]{3}\)|\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$"
    r"|%[0-9]{2}|[0-9]"
)


def smiles_tokens(smiles: str) -> list[str]:
    """Tokens in their order; characters that belong to none are left out."""
    return _TOKEN.findall(smiles)


def read_vocabulary(path: Path) -> dict[str, int]:
    """Numbers of tokens from a vocab.txt, one token in a line."""
    return {line: number for number, line in enumerate(path.read_text(encoding="utf-8").splitlines())}


def smiles_row(smiles: str, vocabulary: Mapping[str, int], length: int) -> list[int]:
    """Token numbers between start and end, at most `length` of them; a longer reaction loses its last tokens."""
    unknown = vocabulary[UNKNOWN]
    inner = [vocabulary.get(token, unknown) for token in smiles_tokens(smiles)][: length - 2]
    return [vocabulary[START], *inner, vocabulary[END]]
