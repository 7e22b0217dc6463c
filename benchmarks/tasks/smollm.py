"""smollm: SmolLM2-135M-Instruct (Llama, 30 blocks) predicts the next token of package descriptions; perplexity.

The weights are the 4-bit ones of a GGUF file, read as float32. Rows are cut from one long line of descriptions with
empty lines between them, so there is no padding and the model reads no mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.sources import require
from benchmarks.sources.debian import LIST
from benchmarks.tasks.descriptions import read_descriptions, split
from benchmarks.tasks.prepared import prepared
from benchmarks.tasks.pretrained import load_model, load_tokenizer, quiet
from benchmarks.tasks.task import Data, Task, make_task
from parallelize.data import Array
from parallelize.models.capture import capture
from passes.errors import ParallelizeError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS = 256
CALIBRATION_ROWS = 400
TEST_ROWS = 16
TESTED_PACKAGES = 1000  # as in the task minilm
SEED = 0
_CLASS = "AutoModelForCausalLM"


class Logits(nn.Module):
    """Token numbers (batch, tokens), int64, in; logits (batch, tokens, vocabulary) out."""

    def __init__(self, llama: nn.Module) -> None:
        super().__init__()
        self.llama = llama

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits alone, without a cache."""
        logits: Tensor = self.llama(input_ids=input_ids, use_cache=False).logits
        return logits


def module() -> nn.Module:
    """The model.

    Raises:
        EnvironmentLackError: it was not fetched, or transformers, accelerate or gguf is not installed.
    """
    return Logits(load_model(_CLASS, prepared("smollm-float32", ("smollm",), (), _convert))).eval()


def _convert(folder: Path) -> None:
    """Save the weights as numbers: a GGUF file takes a minute to read, what `save_pretrained` writes a second."""
    model = load_model(_CLASS, require("smollm"), gguf_file=FILE)
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:  # transformers does not save what it thinks quantized; the weights are float32 already
        quantizer.remove_quantization_config(model)
    with quiet():
        model.save_pretrained(folder)


def task() -> Task:
    """The task.

    Raises:
        EnvironmentLackError: the model or the texts were not fetched, or a library is not installed.
    """
    program = capture(module(), (torch.ones((2, TOKENS), dtype=torch.int64),), origin="SmolLM2-135M-Instruct")
    return make_task("smollm", program, ("smollm", "debian"), _data, "perplexity")


def _data() -> Data:
    found = split(read_descriptions(require("debian") / LIST), TESTED_PACKAGES, SEED)
    tokenizer = load_tokenizer(require("smollm"), gguf_file=FILE)
    rows = []
    for texts, count in ((found.calibration, CALIBRATION_ROWS), (found.tested, TEST_ROWS)):
        rows.append(pack((tokenizer(f"{text.text}\n\n")["input_ids"] for text in texts), TOKENS, count))
    return Data(*({"input_ids": part} for part in rows))


def pack(texts: Iterable[Sequence[int]], length: int, count: int) -> Array:
    """The first `count` rows of `length` tokens of one line: all texts, one after another.

    Returns:
        (count, length) int64.

    Raises:
        ParallelizeError: the texts are too short.
    """
    line = list(islice(chain.from_iterable(texts), count * length))
    if len(line) < count * length:
        raise ParallelizeError(
            f"The texts have {len(line)} tokens, {count} rows of {length} need {count * length}.", "Give more texts."
        )
    return np.array(line, dtype=np.int64).reshape(count, length)
