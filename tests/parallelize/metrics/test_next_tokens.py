"""Which input holds the tokens, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from parallelize.data import Samples
from parallelize.metrics.next_tokens import next_tokens
from passes.errors import ParallelizeError

IDS = torch.tensor([[1, 2, 3], [4, 5, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    "arrays",
    [
        {"input_ids": IDS, "position_ids": MASK},
        {"x": torch.zeros(2, 3), "tokens": IDS, "pad": MASK},
        {"tokens": IDS, "image": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "flags": MASK.bool(), "pad": MASK},
    ],
    ids=["by name", "the only integers", "no other table of integers"],
)
def test_tokens_are_input_ids_or_the_only_integers(arrays: dict[str, Tensor]) -> None:
    samples = Samples(arrays, mask="pad" if "pad" in arrays else None)
    assert torch.equal(next_tokens(samples, 6), IDS)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"a": IDS, "b": IDS}, "the model has 2 of them (a, b)."),
        ({"x": torch.zeros(2, 3)}, "the model has none."),
        ({"ids": 2 * IDS}, "The tokens 'ids' go from 0 to 10, the model has logits for 6."),
        ({"ids": IDS - 1}, "The tokens 'ids' go from -1 to 4, the model has logits for 6."),
    ],
)
def test_inputs_that_are_no_tokens_are_refused(arrays: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        next_tokens(Samples(arrays), 6)
    assert str(caught.value).endswith(sentence)


def test_tokens_that_all_stand_alone_are_refused() -> None:
    alone = torch.tensor([[1, 0, 1], [0, 1, 0]])
    with pytest.raises(ParallelizeError, match="nothing can be predicted") as caught:
        next_tokens(Samples({"ids": IDS, "pad": alone}, mask="pad"), 6)
    assert "'pad'" in caught.value.hint
