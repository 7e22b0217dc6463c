"""Trainings that several processes share, in float64, and what they end in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from paraformer.checkpoint import Checkpoint
from paraformer.config import TokenConfig, VisionConfig
from paraformer.data.labelled import Dataset, Labelled
from paraformer.training.shares import Shares
from paraformer.training.starts import Start, extended, scratch
from paraformer.training.teaching import Teacher
from paraformer.training.trainer import Trainer
from tests.paraformer.training.striped import CONFIG, DATA, OPTIONS

BRANCHED = replace(CONFIG, mode="para-former", branches=4, depth=4)


@dataclass(frozen=True)
class Case:
    """A training.

    Attributes:
        options: other than those of the striped problem.
        config: of the model.
        branch_ranks: how many processes share the branches.
        taught: whether there is a teacher.
        kept: branches that the model is grown from.
        text: whether it reads texts of unequal lengths and says the next token.
    """

    options: dict[str, Any]
    config: VisionConfig = BRANCHED
    branch_ranks: int = 1
    taught: bool = False
    kept: int = 0
    text: bool = False

    def trainer(self, shares: Shares) -> Trainer:
        """The same on every process."""
        options = replace(OPTIONS, **{"epochs": 2, **self.options})
        config = _TEXTS if self.text else self.config
        start = self._start(config)
        start.model.double()
        teacher = Teacher(_checkpoint(replace(config, mode="serial")), "teacher") if self.taught else None
        if teacher is not None:
            teacher.model.double()
        return Trainer(start, options, _texts() if self.text else DATA, teacher=teacher, shares=shares)

    def _start(self, config: Any) -> Start:
        if not self.kept:
            return scratch(config, 0)
        old = replace(config, branches=self.kept, depth=self.kept * config.branch_depth)
        return extended(_checkpoint(old), "old", config.branches)


def _checkpoint(config: Any) -> Checkpoint:
    return Checkpoint(config, scratch(config, 1).model.state_dict())


_TEXTS = TokenConfig(
    mode="para-former",
    branches=4,
    depth=4,
    width=16,
    heads=2,
    hidden=32,
    vocabulary=20,
    length=6,
    classes=2,
    task="next-token",
)


def _texts() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 20, (70, 6), generator=generator)
    mask = (torch.arange(6) < torch.randint(1, 7, (70, 1), generator=generator)).long()
    texts = Labelled((ids * mask, mask), torch.zeros(70, dtype=torch.int64))
    places = torch.arange(70)
    return Dataset("texts", texts[places[:50]], texts[places[50:]], ("no",), tuple(f"word{n}" for n in range(20)))


def result(trainer: Trainer, output: Path, progress: Any = None) -> dict[str, Any]:
    """What a training ends in, but for what depends on the clock."""
    checkpoint = trainer.run(output, progress)
    history = [asdict(replace(record, seconds=0.0)) for record in trainer.history]
    return {"weights": checkpoint.state_dict, "history": history}


def shared(branch_ranks: int) -> Shares:
    """The shares of this process, where torch.distributed knows the others."""
    from paraformer.training.joined_shares import JoinedShares

    return JoinedShares(torch.device("cpu"), branch_ranks)


class Stop(Exception):  # noqa: N818  (an event, not an error)
    """A training is stopped from outside."""


def stop_in_epoch(number: int, steps: int) -> Callable[[int, int, float], None]:
    """Stop at the first step of an epoch, counted from 1."""

    def progress(done: int, _total: int, _loss: float) -> None:
        if done > (number - 1) * steps:
            raise Stop

    return progress


def train_all(cases: dict[str, Case], folder: Path, stops_in: int | None = None) -> None:
    """On one of several processes: train each case, to the end or up to an epoch."""
    distributed.init_process_group("gloo")
    for name, case in cases.items():
        trainer = case.trainer(shared(case.branch_ranks))
        progress = None if stops_in is None else stop_in_epoch(stops_in, trainer.steps_per_epoch)
        with contextlib.suppress(Stop):
            found = result(trainer, folder / f"{name}.pt", progress)
            torch.save(found, folder / f"{name}.rank{distributed.get_rank()}")
    distributed.destroy_process_group()


def apart(first: dict[str, Any], second: dict[str, Any]) -> float:
    """The largest difference of weights, losses and scores."""
    assert list(first["weights"]) == list(second["weights"])
    assert [list(row) for row in first["history"]] == [list(row) for row in second["history"]]
    weights = [(value - second["weights"][name]).abs().max().item() for name, value in first["weights"].items()]
    return max([*weights, *_numbers_apart(first["history"], second["history"])])


def _numbers_apart(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[float]:
    pairs = [(row[name], other[name]) for row, other in zip(first, second, strict=True) for name in row]
    flat = [(a, b) if isinstance(a, tuple) else ((a,), (b,)) for a, b in pairs]
    return [abs((a or 0.0) - (b or 0.0)) for many in flat for a, b in zip(*many, strict=True)]
