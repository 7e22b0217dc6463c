"""How far a healing is, told in words and kept between two runs."""

from __future__ import annotations

import torch

from parallelize.healing.progress import Evaluation, Progress


def test_all_of_it_is_there_again_after_it_was_kept_among_other_values() -> None:
    kept = Progress(7, 1.5, 0.5, 0.25, 6, [torch.ones(2)], [Evaluation(6, 0.3, 0.25)])
    again = Progress.from_plain({**kept.as_plain(), "weights": [], "format": "x"})
    assert vars(again) == vars(kept)
    assert kept.as_plain()["history"] == [{"step": 6, "loss": 0.3, "error": 0.25}]


def test_it_tells_steps_loss_and_the_best_error() -> None:
    assert Progress().told(None) == "step 0, held-out error inf at best, inf at first"
    told = Progress(7, 1.5, 0.5, 0.25, 6, [], [Evaluation(6, 0.3, 0.25)]).told(20)
    assert told == "step 7 of 20, loss 0.3000, held-out error 0.2500 at best, 0.5000 at first"
