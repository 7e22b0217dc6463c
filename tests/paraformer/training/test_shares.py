"""What a process has of a training, and what cannot be shared."""

from __future__ import annotations

import pytest

from paraformer.errors import TrainingError
from paraformer.training.shares import ALONE, Shares, check_ranks


def test_one_process_has_all() -> None:
    assert list(range(7))[ALONE.part(7)] == list(range(7))
    assert ALONE.mean(0.5) == 0.5
    ALONE.check(1, 1)
    check_ranks(1, 1)


@pytest.mark.parametrize(
    ("size", "rows", "message", "hint"),
    [
        (1, 2, "2 processes are to share the branches, and one was started.", "Start it with `torchrun"),
        (4, 3, "4 processes are not shared evenly into rows of 3 branch ranks.", "Ask for --branch-ranks 2, or"),
        (4, 8, "4 processes are not shared evenly into rows of 8 branch ranks.", "Ask for --branch-ranks 4, or"),
    ],
)
def test_rows_that_do_not_divide_the_processes_are_refused(size: int, rows: int, message: str, hint: str) -> None:
    with pytest.raises(TrainingError) as caught:
        check_ranks(size, rows)
    assert str(caught.value) == message
    assert caught.value.hint.startswith(hint)


class _Several(Shares):
    def __init__(self, data: int, branch: int) -> None:
        self.data_ranks, self.branch_ranks = data, branch


@pytest.mark.parametrize(
    ("branches", "rows", "message"),
    [
        (1, 2, "The model has one branch, which leaves nothing for some of 2 ranks."),
        (3, 4, "The model has 3 branches, which leaves nothing for some of 4 ranks."),
        (5, 4, "The model has 5 branches, 2 on each of 3, which leaves nothing for some of 4 ranks."),
    ],
)
def test_more_ranks_than_branches_are_refused(branches: int, rows: int, message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        _Several(1, rows).check(branches, 16)
    assert str(caught.value) == message
    assert caught.value.hint.startswith(f"Ask for --branch-ranks {-(-branches // -(-branches // rows))}, where that")


def test_more_processes_than_samples_of_a_batch_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"^A batch of 3 samples is not enough for 4 processes\.$") as caught:
        _Several(4, 1).check(1, 3)
    assert caught.value.hint == "Ask for --batch-size 4 or more, or start fewer processes."
