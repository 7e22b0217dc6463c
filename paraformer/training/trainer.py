"""Train a Para-Former or its serial twin: AdamW, one-cycle learning rate, seeded, resumable, branches fused.

Every epoch draws its order and its augmentation from a generator seeded by (seed, epoch), and the state after each
epoch is kept beside the checkpoint, so a run that was stopped and resumed ends in the same weights as one that
was not. The test samples are scored after each epoch and decide nothing.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paraformer.branches import Branches
from paraformer.checkpoint import Checkpoint, save
from paraformer.data.labelled import Dataset
from paraformer.errors import CheckpointError
from paraformer.fused import FusedBranches, FusedGroups
from paraformer.model import kind_of
from paraformer.network import ParaFormer
from paraformer.training.average import average_of
from paraformer.training.batches import Batches, held_out
from paraformer.training.evaluation import evaluate
from paraformer.training.fitting import check_fits
from paraformer.training.growing import keep
from paraformer.training.logs import Logs, add_all, logs_in
from paraformer.training.named_state import NamedState, named, places
from paraformer.training.objectives import Batch, losses_of_a_step
from paraformer.training.options import TrainingOptions
from paraformer.training.records import EpochRecord
from paraformer.training.resuming import Kept, forget_state, kept_state, resume_file
from paraformer.training.shares import ALONE, Shares
from paraformer.training.starts import Start, fingerprint
from paraformer.training.teaching import Teacher

Progress = Callable[[int, int, float], None]  # steps done, steps in all, loss
_CPU = torch.device("cpu")


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights of linears, convolutions and embeddings decay; biases, norms and what is learned for a place do not."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decay = [p for n, p in named if n.endswith("weight") and "norm" not in n]
    plain = [p for n, p in named if not n.endswith("weight") or "norm" in n]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def trained_form(start: Start, options: TrainingOptions, shares: Shares = ALONE) -> ParaFormer:
    """The model as it is trained: branches as wide operations, but where each must be left alone at times."""
    if start.kept:
        keep(start.model, start.kept)

    def form(branches: Branches, kept: int) -> nn.Module:
        if branches.count == 1 or options.objective == "progressive-steps":
            return branches
        return FusedGroups(branches, kept) if start.kept else FusedBranches(branches)

    return shares.spread(start.model, start.kept, form)


class Trainer:
    """One training run. `run` goes on from the last finished epoch when a resume file of the same run is there.

    Several processes that share it make the same trainer, each with its `shares`; the first of them writes.

    Raises:
        TrainingError: the data does not fit the model or the teacher, too few samples, an objective that asks for
            branches that are not there, or more processes than samples in a batch or branches.
    """

    def __init__(
        self,
        start: Start,
        options: TrainingOptions,
        data: Dataset,
        *,
        teacher: Teacher | None = None,
        device: torch.device = _CPU,
        logs: Path | None = None,
        shares: Shares = ALONE,
    ) -> None:
        self.start, self.options, self.data, self.shares = start, options, data, shares
        self.teacher, self.device, self.logs = teacher, device, logs
        self.config = start.model.config
        check_fits(self.config, start.words, data)
        if teacher is not None:
            teacher.check(self.config, data)
            teacher.model.to(device)
        self.losses = losses_of_a_step(self.config, options)
        learned, self.held_out = held_out(data, options)
        shares.check(self.config.branch_count, options.batch_size)
        dtype = next(start.model.parameters()).dtype
        self.batches = Batches(learned, data, self.config, options, device, teacher, shares=shares, dtype=dtype)
        self.steps_per_epoch = self.batches.steps
        self.first = fingerprint(start.model)
        self.model = trained_form(start, options, shares).to(device)
        own = [p for name, p in self.model.named_parameters() if shares.branch == 0 or name.startswith("blocks.")]
        self.parameters, self.counted = list(self.model.parameters()), own
        self.learner = shares.learner(self.model, leaves_out=options.objective == "progressive-steps")
        groups = _groups(self.model, options.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.99))
        steps = self.steps_per_epoch * options.epochs
        rise = 0.2 if steps != 5 else 0.4  # a rise of exactly one step divides by zero
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, options.learning_rate, total_steps=steps, pct_start=rise
        )
        self.scaler = shares.scaler(device, enabled=options.precision == "fp16")
        self.average = average_of(self.model, options.ema) if options.ema else None
        self.named_state = NamedState(self.model, self.optimizer, None if self.average is None else self.judged)
        self.best: dict[str, Tensor] | None = None
        self.history: list[EpochRecord] = []

    @property
    def judged(self) -> ParaFormer:
        """The model that is scored and kept: the average of the weights where there is one."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.module, ParaFormer)
        return self.average.module

    @property
    def chosen(self) -> EpochRecord:
        """The epoch whose weights are kept: the last one, or the best on what is held out, the first of equal ones."""
        return self.history[-1] if self.held_out is None else max(self.history, key=EpochRecord.rank)

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or as many as the patience bears went without a new best."""
        if len(self.history) >= self.options.epochs:
            return True
        patience = self.options.patience
        return patience is not None and bool(self.history) and len(self.history) - self.chosen.epoch >= patience

    def run(self, output: Path, progress: Progress | None = None) -> Checkpoint:
        """Train to the end, keep the state after every epoch, write the checkpoint to `output` and return it.

        Where several processes share the training, all return it, and the folder of `output` is one that all see.

        Raises:
            CheckpointError: a resume file beside `output` belongs to a run with other options, cannot be written, or
                is not seen by all processes.
            AbsentLibraryError: logs are asked for, and their library is not installed.
        """
        resume, leads = resume_file(output), self.shares.rank == 0
        self._restore(kept_state(resume, self.identity))
        if not self.shares.is_same(len(self.history)):
            raise CheckpointError(
                f"Not every process finds the same {resume}.", "Write to a folder that all of them have in common."
            )
        with logs_in(self.logs if leads else None, len(self.history) * self.steps_per_epoch) as logs:
            while not self.is_finished:
                self._add_epoch(progress, logs)
                header = {"identity": self.identity, "plain": self._plain()}
                self.shares.keep(resume, header, self.named_state.tensors(self.best))
        if self.best is not None:
            self.judged.load_state_dict(self.best)
        own = {name: value.detach().cpu() for name, value in self.judged.state_dict().items()}
        weights = self.shares.whole(named(own, places(self.judged)))
        in_order = {name: weights[name].clone() for name in self.start.model.state_dict()}
        checkpoint = Checkpoint(self.config, in_order, self.record())
        if leads:
            save(output, checkpoint)
            forget_state(resume)
        return checkpoint

    @property
    def identity(self) -> dict[str, Any]:
        """Two runs with the same identity are the same run, so one may go on from the other's state."""
        return {
            **asdict(self.options),
            "data": [self.data.what, self.data.fingerprint],
            "kind": kind_of(self.config),
            **self.config.to_dict(),
            "first_weights": self.first,
            "kept_branches": self.start.kept,
            "teacher": None if self.teacher is None else self.teacher.fingerprint,
        }

    def _plain(self) -> dict[str, Any]:
        """What the next epoch depends on beside tensors."""
        groups = [{key: v for key, v in group.items() if key != "params"} for group in self.optimizer.param_groups]
        return {
            "optimizer": groups,
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averaged": None if self.average is None else int(self.average.n_averaged),
            "history": [record.to_dict() for record in self.history],
        }

    def _restore(self, kept: Kept | None) -> None:
        if kept is None:
            return
        plain, self.best = kept.header["plain"], self.named_state.load(kept)
        for group, values in zip(self.optimizer.param_groups, plain["optimizer"], strict=True):
            group.update(values)
        self.scheduler.load_state_dict(plain["scheduler"])
        self.scaler.load_state_dict(plain["scaler"])
        if self.average is not None:
            self.average.n_averaged.fill_(plain["averaged"])
        self.history = [EpochRecord.from_dict(record) for record in plain["history"]]

    def _add_epoch(self, progress: Progress | None, logs: Logs | None) -> None:
        """Train for an epoch, score it, and keep its weights if no earlier one is better on what is held out."""
        begin = time.perf_counter()
        loss = self._epoch(len(self.history), progress, logs)
        seconds = time.perf_counter() - begin
        with_prefixes = self.options.objective != "joint"
        scores = evaluate(self.judged, self.data.test, with_prefixes=with_prefixes, shares=self.shares)
        held = None if self.held_out is None else evaluate(self.judged, self.held_out, shares=self.shares)
        row = (None, None) if held is None else (held.loss, held.top1)
        record = EpochRecord(len(self.history) + 1, loss, scores.top1, seconds, scores.prefixes, *row)
        record = self.shares.agreed(record)
        self.history.append(record)
        if self.held_out is not None and self.chosen is record:
            self.best = {name: value.clone() for name, value in self.judged.state_dict().items()}
        add_all(logs, record.curves(), record.epoch * self.steps_per_epoch)

    def _epoch(self, epoch: int, progress: Progress | None, logs: Logs | None) -> float:
        """One pass over the training samples; returns the mean loss."""
        total = 0.0
        self.model.train()
        for step, batches in enumerate(self.batches.of(epoch), 1):
            rate = self.scheduler.get_last_lr()[0]
            loss = self._step(batches)
            self.scheduler.step()
            total += loss
            done = epoch * self.steps_per_epoch + step
            add_all(logs, {"train/loss": loss, "train/learning_rate": float(rate)}, done)
            if progress is not None:
                progress(done, self.scheduler.total_steps, loss)
        return total / self.steps_per_epoch

    def _step(self, batches: list[Batch]) -> float:
        """One step of the optimizer for each loss; returns the last one, which is that of all branches."""
        value = 0.0
        for loss_of in self.losses:
            value = 0.0
            self.optimizer.zero_grad(set_to_none=True)
            for number, batch in enumerate(batches, 1):
                with self.batches.precision():
                    loss = self.learner(loss_of, batch, number == len(batches)) / len(batches)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                value += loss.item()
            self.scaler.unscale_(self.optimizer)
            self.shares.clip(self.parameters, self.options.clip, self.counted)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return self.shares.mean(value)

    def record(self) -> dict[str, Any]:
        """How the model was trained, as plain values: options, machine, versions, one row per epoch."""
        return {
            "data": self.data.what,
            "classes": list(self.data.classes),
            "words": list(self.data.words),
            "start": self.start.origin,
            "kept_branches": self.start.kept,
            "teacher": None if self.teacher is None else self.teacher.name,
            "options": asdict(self.options),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "processes": {"data": self.shares.data_ranks, "branch": self.shares.branch_ranks},
            "epochs": [record.to_dict() for record in self.history],
            "chosen": self.chosen.epoch,
        }
