"""How to train, as plain values: the one place where these options, their ranges and their help are written.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from paraformer.errors import TrainingError
from paraformer.training.offered import offered

Objective = Literal["joint", "progressive", "progressive-steps"]
"""What is learned: the sum of all branches alone, all prefixes in one step, or prefix after prefix, each in its own."""

Precision = Literal["fp32", "bf16", "fp16"]
"""What products are computed in; weights and states stay in float32."""

HELD_OUT = 10  # one of so many training samples of each class judges when to stop
_HINT = "See `parallelize train --help`."


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples in a batch.
        accumulate: batches whose gradients make one step of the optimizer.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of matrices; vectors do not decay.
        clip: largest norm of the gradient.
        objective: see paraformer.training.objectives.
        prefix_weight: of the mean over all prefixes in the objective "progressive"; the rest is that of all branches.
        teacher_weight: of the teacher's answers beside the labels, where there is a teacher.
        temperature: that softens both answers then.
        precision: of products.
        ema: largest decay of a moving average of the weights, which is judged and kept in their place; 0 is none.
        patience: epochs in a row without a new best on held-out training samples that end the run; None trains to the
            end on all of them.
        seed: of weights, order, augmentation and what is held out.
        shift: most pixels by which augmentation shifts an image.

    Raises:
        TrainingError: a number out of range, or an unknown word.
    """

    epochs: int = offered(18, "Passes over the training samples.", least=1)
    batch_size: int = offered(128, "Samples in a batch.", least=1)
    accumulate: int = offered(1, "Batches whose gradients make one step.", least=1)
    learning_rate: float = offered(2e-3, "Peak of the one-cycle schedule.", least=0.0)
    weight_decay: float = offered(0.05, "Of matrices.", least=0.0)
    clip: float = 1.0
    objective: Objective = offered("joint", "All branches alone, all prefixes at once, or prefix after prefix.")
    prefix_weight: float = offered(0.5, "Of all prefixes beside all branches, if progressive.", least=0.0, most=1.0)
    teacher_weight: float = offered(0.5, "Of the teacher's answers beside the labels.", least=0.0, most=1.0)
    temperature: float = offered(2.0, "That softens the answers of teacher and student.", least=0.0)
    precision: Precision = offered("fp32", "Of products; weights and states stay in float32.")
    ema: float = offered(
        0.0, "Decay of a moving average of the weights, which is kept; 0 is none.", least=0.0, most=1.0
    )
    patience: int | None = offered(
        None, "End after so many epochs without a new best on a tenth of the training samples, held out.", least=1
    )
    seed: int = offered(0, "Seeds weights, order, augmentation and what is held out.")
    shift: int = 2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"The training option {name} is {value}; it must be at least 1.", _HINT)
        for name in ("learning_rate", "clip", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f"The training option {name} is {getattr(self, name)}, not above 0.", _HINT)
        if not 0 <= self.weight_decay < math.inf:
            raise TrainingError(f"The training option weight_decay is {self.weight_decay}, not 0 or more.", _HINT)
        self._check_shares()
        for name, known in (("objective", get_args(Objective)), ("precision", get_args(Precision))):
            if getattr(self, name) not in known:
                words = ", ".join(map(repr, known))
                raise TrainingError(f"The training option {name} is {getattr(self, name)!r}, none of {words}.", _HINT)

    def _check_shares(self) -> None:
        for name in ("prefix_weight", "teacher_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"The training option {name} is {getattr(self, name)}, not from 0 to 1.", _HINT)
        if not 0 <= self.ema < 1:
            raise TrainingError(f"The training option ema is {self.ema}, not from 0 to less than 1.", _HINT)
