"""What of a training one process has: of every batch its share of the samples, of the model some of the branches.

    data        ranks of a column have the same branches; each learns from its share, gradients are their mean
    branches    ranks of a row have the same samples; each runs its branches, whose sum goes round

A rank's loss is the sum over its share, divided by what an even share counts. So the mean over the ranks is the loss of
the whole batch, and so are the gradients, however unevenly samples or tokens are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from paraformer.branches import Branches
from paraformer.errors import TrainingError
from paraformer.network import ParaFormer
from paraformer.training.objectives import Batch, Loss
from paraformer.training.resuming import keep_state

T = TypeVar("T")
Learner = Callable[[Loss, Batch, bool], Tensor]
"""The loss of a batch; the last argument tells whether gradients are complete behind it."""

Form = Callable[[Branches, int], nn.Module]
"""How some branches run, where so many of the first ones are kept as they are."""


def check_ranks(size: int, branch_ranks: int) -> None:
    """Refuse branches on a number of ranks that all processes cannot be shared into.

    Raises:
        TrainingError: it does not divide that of all.
    """
    if size == 1 < branch_ranks:
        raise TrainingError(
            f"{branch_ranks} processes are to share the branches, and one was started.",
            "Start it with `torchrun --nproc-per-node N -m parallelize ...`, or leave --branch-ranks out.",
        )
    if size % branch_ranks:
        raise TrainingError(
            f"{size} processes are not shared evenly into rows of {branch_ranks} branch ranks.",
            f"Ask for --branch-ranks {_next_lower(size, branch_ranks)}, or start a multiple of {branch_ranks}.",
        )


class Shares:
    """One process alone, which has all samples and all branches; `joined_shares` has several.

    Attributes:
        rank: number of this process; the first writes and speaks.
        branch: number of this process among those that share the branches.
        data_ranks: how many share the samples of a batch.
        branch_ranks: how many share the branches.
    """

    rank: int = 0
    branch: int = 0
    data_ranks: int = 1
    branch_ranks: int = 1

    def part(self, count: int) -> slice:
        """Which of so many samples are those of this process."""
        return slice(0, count)

    def check(self, branches: int | None, batch_size: int) -> None:
        """Refuse what leaves a process without work; None leaves the branches to who knows them.

        Raises:
            TrainingError: more processes than samples in a batch, or than branches.
        """
        if batch_size < self.data_ranks:
            raise TrainingError(
                f"A batch of {batch_size} samples is not enough for {self.data_ranks} processes.",
                f"Ask for --batch-size {self.data_ranks} or more, or start fewer processes.",
            )
        if branches is None:
            return
        each = -(-branches // self.branch_ranks)
        busy = -(-branches // each)
        if busy == self.branch_ranks:
            return
        has = f"The model has {branches} branches" if branches > 1 else "The model has one branch"
        idle = "" if branches < self.branch_ranks else f", {each} on each of {busy}"
        raise TrainingError(
            f"{has}{idle}, which leaves nothing for some of {self.branch_ranks} ranks.",
            f"Ask for --branch-ranks {busy}, where that divides the number of processes, or for more --branches.",
        )

    def spread(self, model: ParaFormer, kept: int, form: Form) -> ParaFormer:
        """The model with the branches of this process.

        Args:
            model: of branches one by one.
            kept: so many of the first branches are not trained.
            form: how branches run.
        """
        assert isinstance(model.blocks, Branches)
        return model.with_blocks(form(model.blocks, kept))

    def learner(self, model: ParaFormer, *, leaves_out: bool) -> Learner:
        """What the model is trained through: gradients become the mean over all shares.

        Args:
            model: what `spread` gave.
            leaves_out: whether a loss may leave out parameters.
        """
        del leaves_out
        return lambda loss, batch, _is_last: loss(model, batch)

    def clip(self, parameters: Sequence[nn.Parameter], limit: float, counted: Collection[nn.Parameter] = ()) -> Tensor:
        """Bring the norm of the gradient, of all branches together, to a limit; returns what it was.

        Args:
            parameters: that this process trains.
            limit: of the norm.
            counted: those that it counts for a row that shares the branches, each of which is counted once.
        """
        del counted
        return nn.utils.clip_grad_norm_(parameters, limit)

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make gradients the mean over all shares, where no `learner` has done so; none anywhere stays none."""

    @property
    def row_name(self) -> str:
        """Of the process group of those that share the branches."""
        return ""

    def tell(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the values that the first one has."""

    def row_of(self, value: T) -> list[T]:
        """What each process of a row that shares the branches has."""
        return [value]

    def scaler(self, device: torch.device, *, enabled: bool) -> torch.amp.GradScaler:
        """What keeps small gradients of half precision; a step is left out on all ranks or on none."""
        return torch.amp.GradScaler(device.type, enabled=enabled)

    def mean(self, value: float) -> float:
        """The mean of a number over all shares."""
        return value

    def total(self, values: Tensor) -> Tensor:
        """The sum of numbers over all shares."""
        return values

    def agreed(self, value: Any) -> Any:
        """What the first process has found."""
        return value

    def is_same(self, value: Any) -> bool:
        """Whether all processes have found the same; none goes on before all have."""
        del value
        return True

    def whole(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of all branches by their names, of those of this process."""
        return {name: value for part in self.row_of(dict(named)) for name, value in part.items()}

    def keep(self, path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write the state of a run: what the first process says of it, and the tensors of all.

        Raises:
            CheckpointError: one of several processes cannot write.
        """
        keep_state(path, header, tensors)


ALONE = Shares()


def _next_lower(size: int, most: int) -> int:
    """The largest number up to `most` that divides `size`."""
    return next(number for number in range(min(most, size), 0, -1) if size % number == 0)
