"""minilm: all-MiniLM-L6-v2 (BERT, 6 blocks) finds the long description of a Debian package from the short one.

The program's output is the embedding of a sentence, as the model is meant to be used,

    e = m / |m|,      m = mean over real tokens of the last state,

and the score is recall at 1 among 1,000 packages. Texts have 64 tokens: all short ones are whole, 43 % of the
long ones are (their median is 73), and 128 tokens, at twice the cost, give no better recall.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.sources import require
from benchmarks.sources.debian import LIST
from benchmarks.tasks.descriptions import read_descriptions, split
from benchmarks.tasks.pretrained import load_model, load_tokenizer
from benchmarks.tasks.task import Data, Task, make_task, padded
from parallelize.models.capture import capture

TOKENS = 64
PAIRS = 1000
CALIBRATION_TEXTS = 4000
SEED = 0
METRIC = "benchmarks.tasks.recall:recall_at_1"


class Embedding(nn.Module):
    """Token numbers and mask (batch, tokens), int64, in; embeddings (batch, width) of length 1 out."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean over real tokens, normalised."""
        state = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask.unsqueeze(2).to(state.dtype)
        return nn.functional.normalize((state * real).sum(1) / real.sum(1), dim=1)


def module() -> nn.Module:
    """The model.

    Raises:
        EnvironmentLackError: it was not fetched, or transformers is not installed.
    """
    return Embedding(load_model("BertModel", require("minilm"), add_pooling_layer=False)).eval()


def task() -> Task:
    """The task.

    Raises:
        EnvironmentLackError: the model or the texts were not fetched, or transformers is not installed.
    """
    example = torch.ones((2, TOKENS), dtype=torch.int64)
    program = capture(module(), (example, example.clone()), origin="all-MiniLM-L6-v2")
    return make_task("minilm", program, ("minilm", "debian"), _data, METRIC)


def _data() -> Data:
    """Test: all short texts, then all long ones. Calibration: short and long texts in turn, each of its own package."""
    found = split(read_descriptions(require("debian") / LIST), PAIRS, SEED)
    drawn = found.calibration[:CALIBRATION_TEXTS]
    mixed = [text.long if index % 2 else text.short for index, text in enumerate(drawn)]
    tested = [text.short for text in found.tested] + [text.long for text in found.tested]
    tokenizer = load_tokenizer(require("minilm"))
    return Data(_tokens(tokenizer, mixed), _tokens(tokenizer, tested))


def _tokens(tokenizer: Any, texts: list[str]) -> dict[str, np.ndarray]:
    return padded(tokenizer(texts, truncation=True, max_length=TOKENS)["input_ids"], TOKENS)
