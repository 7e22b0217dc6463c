from __future__ import annotations

import pytest
import torch

from benchmarks.tasks.recall import recall_at_1
from passes.errors import ParallelizeError


def test_a_pair_scores_one_where_the_nearest_long_text_is_its_own() -> None:
    short = torch.eye(4)
    long = torch.eye(4)[[0, 2, 1, 3]]  # the long texts of pairs 1 and 2 are exchanged
    scores = recall_at_1([torch.cat([short, long])], [], {})
    assert scores.tolist() == [1, 0, 0, 1]


def test_a_short_text_is_compared_with_long_texts_only() -> None:
    short = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    long = torch.tensor([[0.6, 0.0], [0.5, 0.9]])  # each short text is nearer to the other short text
    assert recall_at_1([torch.cat([short, long])], [], {}).tolist() == [1, 0]


@pytest.mark.parametrize("outputs", [[], [torch.zeros(3, 2)], [torch.zeros(4)], [torch.zeros(4, 2)] * 2])
def test_what_is_no_pairs_of_embeddings_is_refused(outputs: list[torch.Tensor]) -> None:
    with pytest.raises(ParallelizeError, match="Recall at 1 got outputs of the shapes"):
        recall_at_1(outputs, outputs, {})
