"""Healing: the rewritten model learns from the unrewritten one, its teacher, by gradient steps and without labels.

    loss = KL(teacher || student) + w * mean over states |h - t|^2 / |t|^2        (distillation.py)

The states are those after levels up to which the same terms have run in both. AdamW with a clipped gradient; the
learning rate goes through one cycle over the share of the run that is used up, of its steps or of its time, whichever
is larger, and is cut where it proves too high (pace.py). The weights that are kept are those with the smallest error of
the outputs on held-out samples, which are never trained on; where none is better than the start, the start is kept.

The order of the samples depends on (seed, epoch) alone, so that a run that was stopped goes on from its state file and
ends in the weights of one that was not; with a time limit they are as good, but not the same.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx, nn

from paraformer.training.resuming import Kept
from paraformer.training.shares import ALONE, Shares
from parallelize.data import Samples
from parallelize.data.fingerprint import run_identity
from parallelize.healing.gradients import Gradients
from parallelize.healing.leaf_state import load, tensors_of
from parallelize.healing.options import HealOptions
from parallelize.healing.pace import Pace
from parallelize.healing.pair import Pair, pair
from parallelize.healing.progress import Evaluation, Progress
from parallelize.healing.resume import read_state, write_state
from parallelize.healing.spread import spread_student
from parallelize.healing.weights import leaves_of, merged, trainable
from parallelize.machine.device import choose_device
from parallelize.refitting.records import Refitted
from parallelize.terminal.progress import Report
from passes.errors import ParallelizeError
from passes.plan import Plan
from passes.stacks.channels import channel_axis
from passes.stacks.find import Stack, find_stacks

BETAS = (0.9, 0.99)
KEEP_EVERY = 30.0  # seconds between two state files

Ending = Literal["finished", "time limit", "no progress", "diverged"]


@dataclass(frozen=True)
class Healed:
    """A healed graph.

    Attributes:
        module: the refitted graph with its best weights, its branches side by side.
        before: error on held-out samples at the start: KL in nats for logits, else relative L2.
        after: the same with the best weights.
        best_step: the step that the weights are of; 0 where none was better than the start, which is then kept.
        steps: steps in all.
        seconds: what they took, evaluations included.
        trained: numbers that were trained.
        learning_rate: its peak, as it was in the end.
        device: where.
        ending: why the run ended.
        history: all evaluations.
    """

    module: fx.GraphModule
    before: float
    after: float
    best_step: int
    steps: int
    seconds: float
    trained: int
    learning_rate: float
    device: str
    ending: Ending
    history: tuple[Evaluation, ...]

    @property
    def helped(self) -> bool:
        """Whether any weights were better than those of the start."""
        return self.best_step > 0


def heal(
    refitted: Refitted,
    teacher: fx.GraphModule,
    plan: Plan,
    fit: Samples,
    held_out: Samples,
    options: HealOptions,
    *,
    logits: bool = True,
    device: torch.device | None = None,
    state_file: Path | None = None,
    report: Report = lambda _what, _share: None,
    shares: Shares = ALONE,
    local: int | None = None,
) -> Healed:
    """Heal a rewritten graph.

    Args:
        refitted: the rewrite; it is not changed.
        teacher: the captured graph; it is not changed.
        plan: what the graph was rewritten by.
        fit: samples to train on.
        held_out: samples that choose the weights.
        options: see HealOptions.
        logits: compare outputs by KL; by their relative L2 error otherwise.
        device: where to train if the options do not say; None is a GPU where there is one.
        state_file: where the run keeps its state, and goes on from; the caller removes it. None keeps no state.
        report: told step, loss and the best error so far, and the share of the run that is done.
        shares: what of samples and branches this process has, where several heal the same rewrite together.
        local: number of this process among those of its machine.

    Raises:
        ParallelizeError: nothing to train, no samples, outputs that are no logits, or the state file of another run.
        EnvironmentLackError: no such GPU, or the state file cannot be written.
    """
    if not len(fit) or not len(held_out):
        raise ParallelizeError(
            "Healing needs samples to train on and samples to choose on.", "Give more with --inputs."
        )
    stacks = find_stacks(teacher).stacks
    if device is None or options.device is not None:
        device = choose_device(options.device, local)
    shares.check(None, options.batch_size)
    _require_same(refitted, shares)
    weights = trainable(refitted.module, stacks, plan, [ours for ours, _ in refitted.ends], options, device)
    student, own = refitted, weights
    if shares.branch_ranks > 1:
        student, own = spread_student(refitted, weights, shares.branch, shares.branch_ranks, shares.row_name)
    numbers = {leaf: str(number) for number, leaf in enumerate(leaves_of(weights))}
    both = pair(teacher, student, own, fit, device, logits=logits)
    run = ""
    if state_file is not None:
        run = run_identity(teacher, (fit, held_out), json.dumps([plan.to_json(), asdict(options), logits]))
    rate = options.rate(max(channels(stack) for stack in stacks))
    healing = Healing(both, fit.on(device), held_out.on(device), options, rate, shares, numbers)
    ending = healing.run(state_file, run, report)
    best = shares.whole(dict(zip(healing.names, healing.progress.best, strict=True)))
    with torch.no_grad():
        for leaf, number in numbers.items():
            leaf.copy_(best[number])
    return Healed(
        merged(refitted.module, weights) if healing.progress.best_step else refitted.module,
        healing.progress.before,
        healing.progress.best_error,
        healing.progress.best_step,
        healing.progress.step,
        healing.progress.seconds,
        sum(leaf.numel() for leaf in numbers),
        healing.pace.peak,
        str(device),
        ending,
        tuple(healing.progress.history),
    )


def _require_same(refitted: Refitted, shares: Shares) -> None:
    """Begin with the same on every process: each has made the rewrite for itself, where rounding may differ."""
    if not shares.is_same(str(refitted.module.graph)):
        raise ParallelizeError(
            "Not every process has made the same rewrite.", "Start them on machines of one kind, or only one."
        )
    shares.tell(refitted.module.state_dict().values())


def channels(stack: Stack) -> int:
    """Channels of the state."""
    return int(stack.entry.meta["val"].shape[channel_axis(stack)])


class Healing:
    """One run: the trained weights, the optimizer, and the best weights so far."""

    def __init__(
        self,
        both: Pair,
        fit: Samples,
        held_out: Samples,
        options: HealOptions,
        rate: float,
        shares: Shares = ALONE,
        numbers: Mapping[nn.Parameter, str] | None = None,
    ) -> None:
        self.pair, self.fit, self.held_out, self.options, self.pace = both, fit, held_out, options, Pace(rate)
        self.shares = shares
        leaves = {leaf: max(len(node.meta["val"].shape) for node in w.nodes) for w in both.weights for leaf in w.leaves}
        self.leaves: list[nn.Parameter] = list(leaves)
        self.names = [str(place) if numbers is None else numbers[leaf] for place, leaf in enumerate(leaves)]
        first = {name: rank for rank, names in reversed(list(enumerate(shares.row_of(self.names)))) for name in names}
        self.counted = [leaf for leaf, name in zip(leaves, self.names, strict=True) if first[name] == shares.branch]
        self.gradients = Gradients(both, self.leaves, options, shares)
        groups = [
            {"params": [leaf for leaf in leaves if leaves[leaf] > 1], "weight_decay": options.weight_decay},
            {"params": [leaf for leaf in leaves if leaves[leaf] <= 1], "weight_decay": 0.0},
        ]
        self.groups = [group for group in groups if group["params"]]
        self.optimizer = self._fresh_optimizer()
        self.total = options.total_steps(len(fit))
        self.progress = Progress()

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        return torch.optim.AdamW([dict(group) for group in self.groups], self.pace.peak, betas=BETAS)

    @property
    def share(self) -> float:
        """The share of the run that is used up, of its steps or of its time."""
        steps = 0.0 if self.total is None else self.progress.step / self.total
        limit = self.options.time_limit
        return max(steps, 0.0 if limit is None else self.progress.seconds / limit)

    def run(self, state_file: Path | None, run: str, report: Report) -> Ending:
        """Train to the end, from the start or from the state file."""
        state = None if state_file is None else read_state(state_file, run)
        if state is None:
            self.progress.before = self.progress.best_error = self.gradients.error(self.held_out)
            self.progress.best = [leaf.detach().clone() for leaf in self.leaves]
        else:
            self._load(state)
        if not self.shares.is_same(self.progress.step):
            raise ParallelizeError(
                f"Not every process finds the same {state_file}.", "Write to a folder that all of them have in common."
            )
        kept = time.monotonic()
        ending = self._ending()
        while ending is None:
            ending = self._steps(report) or self._ending()
            is_due = self.shares.agreed(ending is not None or time.monotonic() - kept >= KEEP_EVERY)
            if state_file is not None and is_due:
                tensors = tensors_of(self.leaves, self.names, self.progress.best, self.optimizer)
                write_state(state_file, run, self._plain(), tensors, self.shares)
                kept = time.monotonic()
        return ending

    def restore_best(self) -> None:
        """Put the best weights into the student."""
        with torch.no_grad():
            for leaf, value in zip(self.leaves, self.progress.best, strict=True):
                leaf.copy_(value)

    def _ending(self) -> Ending | None:
        if self.total is not None and self.progress.step >= self.total:
            return "finished"
        if self.share >= 1:
            return "time limit"
        since = [evaluation for evaluation in self.progress.history if evaluation.step > self.progress.best_step]
        return "no progress" if len(since) >= self.options.patience else None

    def _steps(self, report: Report) -> Ending | None:
        """Steps up to the next evaluation, and that."""
        begin, before = time.monotonic(), self.progress.seconds
        said = f"healing: {self.progress.told(self.total)}"
        losses = []
        for samples in self._steps_samples():
            loss = self._advance(samples)
            if not math.isfinite(loss):
                self.progress.seconds = before + time.monotonic() - begin
                return "diverged"
            losses.append(loss)
            if self.pace.is_too_fast(loss, self.share):
                self._restart()
            self.progress.seconds = self._agreed(before + time.monotonic() - begin)
            report(said, min(self.share, 1.0))
            if self.share >= 1:
                break
        error = self.gradients.error(self.held_out)
        self.progress.seconds = self.shares.agreed(before + time.monotonic() - begin)
        self.progress.history.append(Evaluation(self.progress.step, sum(losses) / len(losses), error))
        if error < self.progress.best_error:
            self.progress.best_error, self.progress.best_step = error, self.progress.step
            self.progress.best = [leaf.detach().clone() for leaf in self.leaves]
        elif self.pace.is_far_off(error, self.progress.best_error, self.share):
            self._restart()
        report(f"healing: {self.progress.told(self.total)}", min(self.share, 1.0))
        return None

    def _restart(self) -> None:
        """Go on from the best weights, with nothing that the optimizer has gathered since."""
        self.restore_best()
        self.optimizer = self._fresh_optimizer()

    def _steps_samples(self) -> Iterator[Samples]:
        """The samples of the steps up to the next evaluation."""
        per_epoch, size = self.options.steps_per_epoch(len(self.fit)), self.options.batch_size
        last = self.progress.step + self.options.evaluate_every - self.progress.step % self.options.evaluate_every
        for step in range(self.progress.step, last if self.total is None else min(last, self.total)):
            epoch, place = divmod(step, per_epoch)
            if place == 0 or step == self.progress.step:
                generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + epoch)
                order = torch.randperm(len(self.fit), generator=generator)
            yield self.fit.take(order[place * size : (place + 1) * size])

    def _agreed(self, seconds: float) -> float:
        """The time that has passed for the first process, where the pace depends on it."""
        return seconds if self.options.time_limit is None else float(self.shares.agreed(seconds))

    def _advance(self, samples: Samples) -> float:
        """One step; returns the loss, or infinity where loss or gradient is not finite and nothing was changed."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.pace.rate(self.share)
        total = self.gradients.fill(samples)
        norm = self.shares.clip(self.leaves, self.options.clip, self.counted)
        if not bool(norm.isfinite()):
            return math.inf
        self.optimizer.step()
        self.progress.step += 1
        return total

    def _plain(self) -> dict[str, Any]:
        groups = [{key: v for key, v in group.items() if key != "params"} for group in self.optimizer.param_groups]
        plain = {key: value for key, value in self.progress.as_plain().items() if key != "best"}
        return plain | {"optimizer": groups, "pace": asdict(self.pace)}

    def _load(self, kept: Kept) -> None:
        header = kept.header
        best = load(kept, self.leaves, self.names, self.optimizer)
        self.progress = Progress.from_plain({**header, "best": best})
        for group, values in zip(self.optimizer.param_groups, header["optimizer"], strict=True):
            group.update(values)
        self.pace = Pace(**header["pace"])
