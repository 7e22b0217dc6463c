"""Train a Para-Former or its serial twin: AdamW, one-cycle learning rate, seeded, resumable, branches fused.

Every epoch draws its order and its augmentation from a generator seeded by (seed, epoch), and the state after each
epoch is kept beside the checkpoint, so a run that was stopped and resumed ends in the same weights as one that
was not.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.checkpoint import Checkpoint, read_plain, save, write_atomically
from paraformer.data.augmentation import augment
from paraformer.data.labelled import Dataset, Labelled
from paraformer.errors import CheckpointError
from paraformer.model import ParaFormerConfig, build

Progress = Callable[[int, int, float], None]  # steps done, steps in all, loss


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. `learning_rate` is the peak of the one-cycle schedule."""

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 0
    shift: int = 2


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch ended with; `top1` is the share of test images classified rightly."""

    epoch: int
    loss: float
    top1: float
    seconds: float


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights of linears, convolutions and embeddings decay; biases, norms and what is learned for a place do not."""
    named = list(model.named_parameters())
    decay = [p for n, p in named if n.endswith("weight") and "norm" not in n]
    plain = [p for n, p in named if not n.endswith("weight") or "norm" in n]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


@torch.inference_mode()
def predict(model: nn.Module, data: Labelled, batch_size: int = 500) -> Tensor:
    """Logits (n, classes), in batches."""
    model.eval()
    parts = (torch.split(value, batch_size) for value in data.inputs)
    return torch.cat([model(*map(read, inputs)) for inputs in zip(*parts, strict=True)])


def read(value: Tensor) -> Tensor:
    """What a model reads of stored inputs: pixels are stored as bytes."""
    return value.float() if value.dtype == torch.uint8 else value


def top1(model: nn.Module, data: Labelled) -> float:
    """Share of samples whose largest logit is at the label."""
    return float((predict(model, data).argmax(1) == data.labels).float().mean())


class Trainer:
    """One training run. `run` goes on from the last finished epoch when a resume file of the same run is there."""

    def __init__(self, config: ParaFormerConfig, options: TrainingOptions, data: Dataset) -> None:
        torch.manual_seed(options.seed)
        self.config, self.options, self.data = config, options, data
        model = build(config)
        self.model = model.fuse() if config.branch_count > 1 else model
        self.steps_per_epoch = len(data.train) // options.batch_size
        if self.steps_per_epoch == 0 or options.epochs < 1:
            raise ValueError("training needs at least one epoch of at least one whole batch")
        if data.sample_shape != config.input_shape:
            what = "texts" if data.is_text else "images"
            raise ValueError(f"the model reads samples of {config.input_shape}, not {what} of {data.sample_shape}")
        if len(data.classes) > config.classes:
            raise ValueError(f"the model tells {config.classes} classes apart, the data has {len(data.classes)}")
        groups = _groups(self.model, options.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.99))
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, options.learning_rate, total_steps=self.steps_per_epoch * options.epochs, pct_start=0.2
        )
        self.history: list[EpochRecord] = []

    def _identity(self) -> str:
        """Two runs with the same identity are the same run, so one may go on from the other's state."""
        return json.dumps([self.config.to_dict(), asdict(self.options), self.data.what, self.data.fingerprint])

    def _resume(self, path: Path) -> None:
        if not path.exists():
            return
        state = read_plain(path, "Delete the file to start anew.")
        if not isinstance(state, dict) or state.get("identity") != self._identity():
            raise CheckpointError(
                f"{path} belongs to a run with other options.",
                "Use the same options to go on with that run, or delete the file to start anew.",
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history = [EpochRecord(**record) for record in state["history"]]

    def _keep(self, path: Path) -> None:
        state = {
            "identity": self._identity(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": [asdict(record) for record in self.history],
        }
        write_atomically(path, state)

    def _epoch(self, epoch: int, progress: Progress | None) -> float:
        """One pass over the training images; returns the mean loss."""
        options, total = self.options, 0.0
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data.train), generator=generator)
        self.model.train()
        for step in range(self.steps_per_epoch):
            batch = self.data.train[order[step * options.batch_size : (step + 1) * options.batch_size]]
            loss = F.cross_entropy(self.model(*self._read(batch, generator)), batch.labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
            self.optimizer.step()
            self.scheduler.step()
            total += loss.item()
            if progress is not None:
                progress(epoch * self.steps_per_epoch + step + 1, self.scheduler.total_steps, loss.item())
        return total / self.steps_per_epoch

    def _read(self, batch: Labelled, generator: torch.Generator) -> list[Tensor]:
        """What the model reads of a training batch."""
        inputs = batch.inputs
        if not self.data.is_text:
            inputs = (augment(inputs[0], generator, self.options.shift, mirrors=self.data.mirrors),)
        return [read(value) for value in inputs]

    def run(self, output: Path, progress: Progress | None = None) -> Checkpoint:
        """Train to the end, keep the state after every epoch, write the checkpoint to `output` and return it.

        Raises:
            CheckpointError: a resume file beside `output` belongs to a run with other options.
        """
        resume = output.with_name(output.name + ".resume")
        self._resume(resume)
        for epoch in range(len(self.history), self.options.epochs):
            start = time.perf_counter()
            loss = self._epoch(epoch, progress)
            seconds = time.perf_counter() - start
            self.history.append(EpochRecord(epoch + 1, loss, top1(self.model, self.data.test), seconds))
            self._keep(resume)
        checkpoint = Checkpoint(self.config, self.model.unfuse().state_dict(), self.record())
        save(output, checkpoint)
        resume.unlink(missing_ok=True)
        return checkpoint

    def record(self) -> dict[str, Any]:
        """How the model was trained, as plain values: options, machine, versions, one row per epoch."""
        return {
            "data": self.data.what,
            "classes": list(self.data.classes),
            "words": list(self.data.words),
            "options": asdict(self.options),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "epochs": [asdict(record) for record in self.history],
        }
