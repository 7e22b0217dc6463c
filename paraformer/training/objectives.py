"""What is minimised, where L is a criterion and y_k the logits of the first k of N branches.

    joint                 L(y_N)
    progressive           (1 - s) L(y_N) + s mean_k L(y_k)       one step; N branch evaluations, by running sums
    progressive-steps     L(y_1), step, L(y_2), step ... L(y_N), step       N (N + 1) / 2 of them, arXiv 2510.15425

With s = 0 progressive is joint. In the third, branches behind the prefix get no gradient at all, so neither momentum
nor decay moves them. The criterion is cross entropy, beside a teacher (1 - a) CE + a T^2 KL(teacher || student), both
answers softened by the temperature T (Hinton et al., arXiv 1503.02531).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.branches import Branches
from paraformer.config import ParaFormerConfig, TokenConfig
from paraformer.errors import TrainingError
from paraformer.network import ParaFormer
from paraformer.prefixes import first_branches
from paraformer.training.options import TrainingOptions
from paraformer.training.spread_branches import SpreadBranches

UNSAID = -100  # a target where nothing is to be said


@dataclass(frozen=True, eq=False)
class Batch:
    """What the model reads, and what it should say.

    Attributes:
        inputs: in the model's order.
        targets: classes, (B,) or of each token (B, T); UNSAID where there is none.
        taught: logits of a teacher, (B, classes) or (B, T, classes).
        counted: targets that the loss is a mean over; None is those that are here. Where several processes share a
            batch it is what an even share has, so that the mean of their losses is that of the batch.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    taught: Tensor | None = None
    counted: float | None = None


Loss = Callable[[ParaFormer, Batch], Tensor]


def targets_of(config: ParaFormerConfig, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """The labels, or at each token the next one where that is what the model says."""
    if not isinstance(config, TokenConfig) or not config.causal:
        return labels
    ids, mask = inputs
    return F.pad(ids[:, 1:].masked_fill(mask[:, 1:] == 0, UNSAID), (0, 1), value=UNSAID)


def losses_of_a_step(config: ParaFormerConfig, options: TrainingOptions) -> list[Loss]:
    """The losses that are minimised one after another, each by a step of the optimizer.

    Raises:
        TrainingError: prefixes are asked for where there is one branch.
    """
    if options.objective == "joint":
        return [partial(_joint, options)]
    if config.branch_count == 1:
        raise TrainingError(
            f"The objective {options.objective} trains prefixes of branches, and the model has one branch.",
            "Ask for --mode para-former and --branches, or leave --objective out.",
        )
    if options.objective == "progressive":
        return [partial(_progressive, options)]
    return [partial(_prefix, options, count) for count in range(1, config.branch_count + 1)]


def _joint(options: TrainingOptions, model: ParaFormer, batch: Batch) -> Tensor:
    return criterion(model(*batch.inputs), batch, options)


def _progressive(options: TrainingOptions, model: ParaFormer, batch: Batch) -> Tensor:
    logits, share = model.prefix_logits(*batch.inputs), options.prefix_weight
    return (1 - share) * criterion(logits[-1], batch, options) + share * criterion(logits, batch, options)


def _prefix(options: TrainingOptions, count: int, model: ParaFormer, batch: Batch) -> Tensor:
    """Of the first `count` branches, the only ones that run."""
    given = model.start(*batch.inputs)
    if isinstance(model.blocks, SpreadBranches):
        state = model.blocks.prefix(count, *given)
    else:
        assert isinstance(model.blocks, Branches)
        state = first_branches(model.blocks, count)(*given)
    return criterion(model.answer(state, *batch.inputs[1:]), batch, options)


def criterion(logits: Tensor, batch: Batch, options: TrainingOptions) -> Tensor:
    """The mean over samples, or tokens, and over prefixes where there is an axis of them in front."""
    logits = _wide(logits)
    prefixes = logits.shape[: logits.ndim - batch.targets.ndim - 1]
    targets = batch.targets.expand(*prefixes, *batch.targets.shape)
    counted = int((batch.targets != UNSAID).sum()) if batch.counted is None else batch.counted
    over = max(counted, 1e-9) * prefixes.numel()
    labelled = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=UNSAID, reduction="sum") / over
    if batch.taught is None:
        return labelled
    heat = options.temperature
    said, taught = (F.log_softmax(_wide(value) / heat, -1) for value in (logits, batch.taught))
    apart = F.kl_div(said, taught.expand_as(said), reduction="none", log_target=True).sum(-1)
    learned = heat**2 * apart[targets != UNSAID].sum() / over
    return (1 - options.teacher_weight) * labelled + options.teacher_weight * learned


def _wide(value: Tensor) -> Tensor:
    """In float32 at least."""
    return value if value.dtype == torch.float64 else value.float()
