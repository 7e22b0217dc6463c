"""rxnfp: a BERT of 12 blocks that tells 50 classes of chemical reactions apart, top-1 on 2,000 of them.

Model and split are those of Schwaller et al., "Mapping the space of chemical reactions using attention-based neural
networks", arXiv 2012.06051: the model was fine-tuned on the 10,000 training reactions of schneider50k. Calibration uses
these, without labels; tested are reactions that are not among them. With 192 tokens, 95.5 % of the reactions are whole;
the rest lose their ends.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.sources import require
from benchmarks.tasks.pretrained import load_model
from benchmarks.tasks.smiles import read_vocabulary, smiles_row
from benchmarks.tasks.task import LABELS, Data, Task, make_task, padded
from parallelize.models.capture import capture

CLASSES = 50
TOKENS = 192
TESTED = 2000
SEED = 0
_REACTION, _CLASS, _SPLIT = "rxn", "rxn_class", "split"


class Classifier(nn.Module):
    """Token numbers and mask (batch, tokens), int64, in; logits (batch, classes) out."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits alone."""
        logits: Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def module() -> nn.Module:
    """The model; its config names two classes, its weights have 50.

    Raises:
        EnvironmentLackError: it was not fetched, or transformers is not installed.
    """
    return Classifier(load_model("BertForSequenceClassification", require("rxnfp"), num_labels=CLASSES)).eval()


def task() -> Task:
    """The task.

    Raises:
        EnvironmentLackError: the model or the reactions were not fetched, or transformers is not installed.
    """
    example = torch.ones((2, TOKENS), dtype=torch.int64)
    program = capture(module(), (example, example.clone()), origin="rxnfp bert_ft_10k_25s")
    return make_task("rxnfp", program, ("rxnfp", "schneider50k"), _data, "top1-drop")


def _data() -> Data:
    reactions = _read(require("schneider50k") / "schneider50k.tsv")
    number = {name: index for index, name in enumerate(sorted({row[_CLASS] for row in reactions}))}
    draw = random.Random(SEED)  # noqa: S311  (a reproducible draw, no secret)
    train = list({row[_REACTION]: row for row in reactions if row[_SPLIT] == "train"}.values())
    known = {row[_REACTION] for row in train}
    fresh = {row[_REACTION]: row for row in reactions if row[_SPLIT] == "test" and row[_REACTION] not in known}
    draw.shuffle(train)
    tested = draw.sample(list(fresh.values()), TESTED)
    labels = np.array([number[row[_CLASS]] for row in tested], dtype=np.int64)
    return Data(_tokens(train), {**_tokens(tested), LABELS: labels})


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _tokens(reactions: Sequence[dict[str, str]]) -> dict[str, np.ndarray]:
    vocabulary = read_vocabulary(require("rxnfp") / "vocab.txt")
    return padded([smiles_row(row[_REACTION], vocabulary, TOKENS) for row in reactions], TOKENS)
