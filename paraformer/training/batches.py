"""The batches of each step: an order, an augmentation and a teacher's answers, all repeated by the seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from paraformer.config import ParaFormerConfig
from paraformer.data.augmentation import augment
from paraformer.data.labelled import Dataset, Labelled, kept_apart
from paraformer.errors import TrainingError
from paraformer.training.evaluation import read
from paraformer.training.objectives import UNSAID, Batch, targets_of
from paraformer.training.options import HELD_OUT, TrainingOptions
from paraformer.training.shares import ALONE, Shares
from paraformer.training.teaching import Teacher

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Batches:
    """What a model learns from, step by step; where several processes share it, each draws all and takes its part.

    Attributes:
        steps: of an epoch; what does not fill one is left out, other samples in each epoch.

    Raises:
        TrainingError: too few samples for one step.
    """

    def __init__(
        self,
        learned: Labelled,
        data: Dataset,
        config: ParaFormerConfig,
        options: TrainingOptions,
        device: torch.device,
        teacher: Teacher | None,
        *,
        shares: Shares = ALONE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shares, self.dtype = shares, dtype
        self.learned, self.data, self.config = learned, data, config
        self.options, self.device, self.teacher = options, device, teacher
        self.steps = _steps(len(learned), options)

    def of(self, epoch: int) -> Iterator[list[Batch]]:
        """The batches of each step, in an order and with an augmentation of the epoch's own."""
        options = self.options
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + epoch)
        order = torch.split(torch.randperm(len(self.learned), generator=generator), options.batch_size)
        for step in range(self.steps):
            chosen = order[step * options.accumulate : (step + 1) * options.accumulate]
            yield [self._batch(self.learned[places], generator) for places in chosen]

    def _batch(self, samples: Labelled, generator: torch.Generator) -> Batch:
        inputs = samples.inputs
        if not self.data.is_text:
            inputs = (augment(inputs[0], generator, self.options.shift, mirrors=self.data.mirrors),)
        targets = targets_of(self.config, inputs, samples.labels)
        counted = int((targets != UNSAID).sum()) / self.shares.data_ranks
        part = self.shares.part(len(samples))
        given = tuple(read(value[part].to(self.device), self.dtype) for value in inputs)
        targets = targets[part].to(self.device)
        if self.teacher is None:
            return Batch(given, targets, counted=counted)
        with self.precision():
            return Batch(given, targets, self.teacher.answer(given), counted)

    def precision(self) -> AbstractContextManager[None]:
        """Autocast of products to the precision that is asked for; weights and states stay in float32."""
        dtype = _DTYPES[self.options.precision]
        return nullcontext() if dtype is torch.float32 else torch.autocast(self.device.type, dtype)


def held_out(data: Dataset, options: TrainingOptions) -> tuple[Labelled, Labelled | None]:
    """Samples to learn from, and those of the training data that judge when to stop."""
    if options.patience is None:
        return data.train, None
    learned, kept = kept_apart(data.train, options.seed, HELD_OUT)
    if not len(kept):
        raise TrainingError(
            f"No class of {data.name} has {HELD_OUT} training samples, one of which could be held out.",
            "Leave --patience out, or name more --data.",
        )
    return learned, kept


def _steps(samples: int, options: TrainingOptions) -> int:
    """Steps of an epoch; what does not fill one is left out, other samples in each epoch."""
    batches = samples // options.batch_size
    if not batches:
        raise TrainingError(
            f"{samples} training samples do not fill a batch of {options.batch_size}.",
            "Lower --batch-size, or name more --data.",
        )
    if options.accumulate > batches:
        raise TrainingError(
            f"{options.accumulate} batches make a step, and an epoch has {batches}.",
            f"Ask for --accumulate {batches} or less.",
        )
    return batches // options.accumulate
