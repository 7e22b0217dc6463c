"""A healing that several processes share, in float64, and what it ends in."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from paraformer.model import VisionConfig, VisionParaFormer
from paraformer.training.shares import ALONE, Shares
from parallelize.data import Samples
from parallelize.healing import heal as healing
from parallelize.healing.options import HealOptions
from parallelize.models.capture import capture
from parallelize.models.program import Program
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from tests.parallelize.small_models import images, pairs

FIT, HELD_OUT = (
    Samples({"images": images(count, seed).arrays["images"].double()}) for seed, count in enumerate((50, 25))
)
PLAN = pairs("affine", 2)
OPTIONS = HealOptions(steps=6, batch_size=15, evaluate_every=2, learning_rate=3e-3)


class Stop(Exception):  # noqa: N818  (an event, not an error)
    """A healing is stopped from outside."""


@dataclass(frozen=True)
class Case:
    """A healing.

    Attributes:
        options: other than those above.
        branch_ranks: how many processes share the branches.
        fixed: samples that the program takes at a time; None leaves them open.
        logits: whether outputs are compared by KL.
    """

    options: dict[str, Any]
    branch_ranks: int = 1
    fixed: int | None = None
    logits: bool = True

    def run(self, shares: Shares = ALONE, state_file: Path | None = None, stops_at: int | None = None) -> Any:
        """What the healing ends in, but for what depends on the clock."""
        teacher, refitted = _rewrite()
        fit, held_out = (replace(samples, fixed=self.fixed) for samples in (FIT, HELD_OUT))
        healed = healing.heal(
            refitted,
            teacher.module,
            PLAN,
            fit,
            held_out,
            replace(OPTIONS, **self.options),
            logits=self.logits,
            device=torch.device("cpu"),
            state_file=state_file,
            report=_stopping(stops_at),
            shares=shares,
        )
        found = [value.detach() for value in healed.module.state_dict().values()]
        history = [asdict(evaluation) for evaluation in healed.history]
        return {"weights": found, "history": history, "best": (healed.before, healed.after, healed.best_step)}


def _stopping(step: int | None) -> Callable[[str, float | None], None]:
    def report(what: str, _share: float | None) -> None:
        if step is not None and f"step {step} of" in what:
            raise Stop

    return report


@functools.cache
def _rewrite() -> tuple[Program, Refitted]:
    torch.manual_seed(0)
    config = VisionConfig(depth=2, width=16, heads=2, hidden=32, image_size=8, patch_size=4)
    model = VisionParaFormer(config).double().eval()
    teacher = capture(model, (torch.zeros(1, *config.input_shape, dtype=torch.float64),), origin="small")
    return teacher, refit(teacher.module, PLAN, FIT, HELD_OUT)


def heal_all(cases: dict[str, Case], folder: Path, stops_at: int | None = None) -> None:
    """On one of several processes: heal in each case, to the end or up to a step."""
    from paraformer.training.joined_shares import JoinedShares

    healing.KEEP_EVERY = 0.0
    distributed.init_process_group("gloo")
    for name, case in cases.items():
        shares = JoinedShares(torch.device("cpu"), case.branch_ranks)
        with contextlib.suppress(Stop):
            found = case.run(shares, folder / f"{name}.resume", stops_at)
            torch.save(found, folder / f"{name}.rank{distributed.get_rank()}")
    distributed.destroy_process_group()


def apart(first: Any, second: Any) -> float:
    """The largest difference of weights, losses and errors."""
    assert len(first["weights"]) == len(second["weights"])
    weights = [(a - b).abs().max().item() for a, b in zip(first["weights"], second["weights"], strict=True)]
    assert [row["step"] for row in first["history"]] == [row["step"] for row in second["history"]]
    rows = zip(first["history"], second["history"], strict=True)
    numbers = [abs(row[name] - other[name]) for row, other in rows for name in ("loss", "error")]
    assert first["best"][2] == second["best"][2]
    return max([*weights, *numbers, *(abs(a - b) for a, b in zip(first["best"], second["best"], strict=True))])
