"""How a rewritten model is healed, and for how long: the one place where these options and their help are written.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from parallelize.terminal.option_field import option
from passes.errors import ParallelizeError

Trained = Literal["all", "outer", "lora"]
TRAINED: tuple[Trained, ...] = ("all", "outer", "lora")
DEFAULT_STEPS = 1000
RATE, RATE_WIDTH = 1e-3, 64  # the largest learning rate by default, and the channels up to which it is that
_HINT = "See `parallelize heal --help`."


@dataclass(frozen=True)
class HealOptions:
    """Options of a healing. At most one of `steps` and `epochs` is given; without any limit it is 1,000 steps.

    Attributes:
        steps: optimizer steps.
        epochs: passes over the samples that fit.
        time_limit: seconds; ends the run also where `steps` or `epochs` are not used up.
        batch_size: samples in a step.
        learning_rate: peak of the one-cycle schedule; None is 1e-3 for a state of 64 channels, less in proportion for
            wider ones, as Adam's rate scales with width (Yang et al., arXiv 2203.03466), and no more for narrower ones.
        hidden_weight: weight of the states' error beside the error of the outputs.
        weight_decay: of matrices; vectors do not decay.
        clip: largest norm of the gradient.
        train: "all" parameters; "outer": norms, out-projections and the refit's affine branches; "lora": low-rank
            adapters on the linears of rewritten levels, merged in the end.
        rank: of the adapters.
        evaluate_every: steps between two evaluations on held-out samples.
        patience: evaluations in a row without a new best that end the run.
        seed: seeds the order of the samples and the adapters.
        device: where to train, such as "cpu" or "cuda:1"; None is where the conversion runs, or a GPU where there is
            one.

    Raises:
        ParallelizeError: a number out of range, or both steps and epochs.
    """

    steps: int | None = option(
        None, f"Optimizer steps (default: {DEFAULT_STEPS}, without --epochs and --time-limit).", least=1
    )
    epochs: int | None = option(None, "Passes over the data.", least=1)
    time_limit: float | None = option(None, "End after so many seconds.", least=0.0, metavar="SECONDS")
    batch_size: int = option(64, "Samples in a step.", least=1)
    learning_rate: float | None = option(
        None,
        f"Peak of the one-cycle schedule (default: {RATE:g} up to {RATE_WIDTH} channels, less in proportion for more).",
        least=0.0,
    )
    hidden_weight: float = option(10.0, "Weight of the states' error beside that of the outputs.", least=0.0)
    weight_decay: float = option(0.01, "Of matrices.", least=0.0)
    clip: float = 1.0
    train: Trained = option(
        "all", "All weights; norms, out-projections and affine branches; or low-rank adapters, merged in the end."
    )
    rank: int = option(8, "Of the adapters.", least=1)
    evaluate_every: int = option(50, "Steps between two evaluations on held-out samples.", least=1)
    patience: int = option(10, "Evaluations in a row without a new best that end the run.", least=1)
    seed: int = option(0, "Seeds the order of the samples and the adapters.")
    device: str | None = option(None, "cpu, cuda or cuda:N (default: a GPU where there is one).")

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ParallelizeError("Only one of steps and epochs can be asked for.", "Leave out one of them.")
        for name in ("steps", "epochs", "batch_size", "rank", "evaluate_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParallelizeError(f"The healing option {name} is {value}; it must be at least 1.", _HINT)
        for name in ("time_limit", "learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ParallelizeError(f"The healing option {name} is {value}; it must be a positive number.", _HINT)
        for name in ("hidden_weight", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ParallelizeError(f"The healing option {name} is {getattr(self, name)}, not 0 or more.", _HINT)
        if self.train not in TRAINED:
            raise ParallelizeError(f"Healing cannot train {self.train!r}.", f"It is one of {', '.join(TRAINED)}.")

    def rate(self, width: int) -> float:
        """The peak of the learning rate for a state of `width` channels."""
        return self.learning_rate or RATE * min(1.0, RATE_WIDTH / width)

    def steps_per_epoch(self, samples: int) -> int:
        """Whole batches in `samples`; fewer samples than a batch are one."""
        return max(1, samples // self.batch_size)

    def total_steps(self, samples: int) -> int | None:
        """Steps in all on `samples` samples; None where only the time is limited."""
        if self.epochs is not None:
            return self.epochs * self.steps_per_epoch(samples)
        return DEFAULT_STEPS if self.steps is None and self.time_limit is None else self.steps
