"""Train a Para-Former or its serial twin: AdamW, one-cycle learning rate, seeded, resumable, branches fused.

Every epoch draws its order and its augmentation from a generator seeded by (seed, epoch), and the state after each
epoch is kept beside the checkpoint, so a run that was stopped and resumed ends in the same weights as one that
was not. The test samples are scored after each epoch and decide nothing.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paraformer.branches import Branches
from paraformer.checkpoint import Checkpoint, save
from paraformer.data.labelled import Dataset
from paraformer.fused import FusedGroups
from paraformer.model import kind_of
from paraformer.network import ParaFormer
from paraformer.training.average import average_of
from paraformer.training.batches import Batches, held_out
from paraformer.training.evaluation import evaluate
from paraformer.training.fitting import check_fits
from paraformer.training.growing import keep
from paraformer.training.logs import Logs, add_all, logs_in
from paraformer.training.objectives import Batch, losses_of_a_step
from paraformer.training.options import TrainingOptions
from paraformer.training.records import EpochRecord
from paraformer.training.resuming import keep_state, kept_state, resume_file
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


def trained_form(start: Start, options: TrainingOptions) -> ParaFormer:
    """The model as it is trained: branches as wide operations, but where each must be left alone at times."""
    model = start.model
    if start.kept:
        keep(model, start.kept)
    if model.config.branch_count == 1 or options.objective == "progressive-steps":
        return model
    if not start.kept:
        return model.fuse()
    assert isinstance(model.blocks, Branches)
    return model.with_blocks(FusedGroups(model.blocks, start.kept))


class Trainer:
    """One training run. `run` goes on from the last finished epoch when a resume file of the same run is there.

    Raises:
        TrainingError: the data does not fit the model or the teacher, too few samples, or an objective that asks for
            branches that are not there.
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
    ) -> None:
        self.start, self.options, self.data = start, options, data
        self.teacher, self.device, self.logs = teacher, device, logs
        self.config = start.model.config
        check_fits(self.config, start.words, data)
        if teacher is not None:
            teacher.check(self.config, data)
            teacher.model.to(device)
        self.losses = losses_of_a_step(self.config, options)
        learned, self.held_out = held_out(data, options)
        self.batches = Batches(learned, data, self.config, options, device, teacher)
        self.steps_per_epoch = self.batches.steps
        self.first = fingerprint(start.model)
        self.model = trained_form(start, options).to(device)
        groups = _groups(self.model, options.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.99))
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, options.learning_rate, total_steps=self.steps_per_epoch * options.epochs, pct_start=0.2
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self.average = average_of(self.model, options.ema) if options.ema else None
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

        Raises:
            CheckpointError: a resume file beside `output` belongs to a run with other options.
            AbsentLibraryError: logs are asked for, and their library is not installed.
        """
        resume, identity = resume_file(output), self._identity()
        self._restore(kept_state(resume, identity))
        with logs_in(self.logs, len(self.history) * self.steps_per_epoch) as logs:
            while not self.is_finished:
                self._add_epoch(progress, logs)
                keep_state(resume, identity, self._state())
        if self.best is not None:
            self.judged.load_state_dict(self.best)
        weights = {name: value.detach().cpu() for name, value in self.judged.unfuse().state_dict().items()}
        checkpoint = Checkpoint(self.config, weights, self.record())
        save(output, checkpoint)
        resume.unlink(missing_ok=True)
        return checkpoint

    def _identity(self) -> dict[str, Any]:
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

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best,
            "history": [record.to_dict() for record in self.history],
        }

    def _restore(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best = state["best"]
        self.history = [EpochRecord.from_dict(record) for record in state["history"]]

    def _add_epoch(self, progress: Progress | None, logs: Logs | None) -> None:
        """Train for an epoch, score it, and keep its weights if no earlier one is better on what is held out."""
        begin = time.perf_counter()
        loss = self._epoch(len(self.history), progress, logs)
        seconds = time.perf_counter() - begin
        scores = evaluate(self.judged, self.data.test, with_prefixes=self.options.objective != "joint")
        held = None if self.held_out is None else evaluate(self.judged, self.held_out)
        row = (None, None) if held is None else (held.loss, held.top1)
        record = EpochRecord(len(self.history) + 1, loss, scores.top1, seconds, scores.prefixes, *row)
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
            for batch in batches:
                with self.batches.precision():
                    loss = loss_of(self.model, batch) / len(batches)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                value += loss.item()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return value

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
            "epochs": [record.to_dict() for record in self.history],
            "chosen": self.chosen.epoch,
        }
