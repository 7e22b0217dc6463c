"""What `train` does: the trainer of the paraformer package, driven by what the command line was given."""

from __future__ import annotations

from pathlib import Path

import torch

from paraformer.checkpoint import Checkpoint, load
from paraformer.config import ParaFormerConfig
from paraformer.data.labelled import Dataset
from paraformer.data.loading import load_data
from paraformer.data.texts import TOKENS
from paraformer.errors import CheckpointError, TrainingError
from paraformer.training.fitting import config_for
from paraformer.training.options import TrainingOptions
from paraformer.training.records import EpochRecord
from paraformer.training.shares import ALONE as WHOLE
from paraformer.training.shares import Shares, check_ranks
from paraformer.training.starts import Start, continued, extended, scratch
from paraformer.training.teaching import Teacher
from paraformer.training.trainer import Trainer
from parallelize.cli.training_options import Beginning, Samples, Sizes
from parallelize.machine.device import choose_device
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.terminal.progress import Report

_HINT = "See `parallelize train --help`."


def train_model(
    output: Path,
    samples: Samples,
    sizes: Sizes,
    beginning: Beginning,
    options: TrainingOptions,
    *,
    report: Report,
    device: str | None = None,
    logs: Path | None = None,
    ranks: Ranks = ALONE,
    branch_ranks: int = 1,
) -> EpochRecord:
    """Train to the end or from where a stopped run was.

    Args:
        output: checkpoint to write.
        samples: what is learned from.
        sizes: that are asked for.
        beginning: checkpoints to begin with and to learn from.
        options: of the training.
        report: told epoch and accuracy.
        device: where to train.
        logs: folder for curves.
        ranks: the processes that share the training; the first of them writes.
        branch_ranks: how many of them share the branches, the samples being shared by all by so many.

    Returns:
        The scores of the weights that were written.

    Raises:
        ParaFormerError: data, sizes and checkpoints that do not fit each other, or too few samples.
        ParallelizeError: no such device.
    """
    check_ranks(ranks.size, branch_ranks)
    place = choose_device(device, ranks.local)
    data = load_data(samples.data, size=samples.image_size, tokens=samples.length or TOKENS).head(samples.limit)
    start = _start(data, sizes, beginning, options)
    teacher = None if beginning.teacher is None else Teacher(_checkpoint(beginning.teacher), beginning.teacher.name)
    with ranks.together():
        shares = _shares(ranks, place, branch_ranks)
        trainer = Trainer(start, options, data, teacher=teacher, device=place, logs=logs, shares=shares)
        ranks.require_same(lambda: repr(trainer.identity))

        def progress(done: int, total: int, _loss: float) -> None:
            epoch = min(len(trainer.history) + 1, options.epochs)
            report(f"epoch {epoch} of {options.epochs}{_last(trainer)}", done / total)

        trainer.run(output, progress)
    return trainer.chosen


def _shares(ranks: Ranks, device: torch.device, branch_ranks: int) -> Shares:
    """What of the training this process has."""
    if ranks.size == 1:
        return WHOLE
    from paraformer.training.joined_shares import JoinedShares

    return JoinedShares(device, branch_ranks)


def _start(data: Dataset, sizes: Sizes, beginning: Beginning, options: TrainingOptions) -> Start:
    """The model that is to be trained, of new weights or those of a checkpoint."""
    _check(sizes, beginning)
    if beginning.grow is not None:
        start = extended(
            _checkpoint(beginning.grow),
            beginning.grow.name,
            sizes.branches or 0,
            train_old=beginning.train_old,
            seed=options.seed,
        )
        _check_sizes(start.model.config, sizes, beginning.grow)
        return start
    if beginning.init is not None:
        start = continued(_checkpoint(beginning.init), beginning.init.name, sizes.mode, sizes.branches, sizes.merge)
        _check_sizes(start.model.config, sizes, beginning.init)
        return start
    branches = sizes.branches or 1
    mode, width = "para-former" if branches > 1 else "serial", sizes.width or ParaFormerConfig.width
    default = {"mode": mode, "hidden": 4 * width}
    given = {name: value for name, value in sizes.given.items() if name != "branch_depth"}
    depth = blocks_in_all(sizes.depth, branches, sizes.branch_depth)
    return scratch(config_for(data, {**default, **given, "depth": depth}), options.seed)


def blocks_in_all(depth: int | None, branches: int, branch_depth: int | None) -> int:
    """Blocks of a model, of which all or those of a branch are given.

    Raises:
        TrainingError: both are given, and differ.
    """
    if branch_depth is None:
        return ParaFormerConfig.depth if depth is None else depth
    if depth not in (None, branches * branch_depth):
        raise TrainingError(
            f"{branches} branches of {branch_depth} blocks are {branches * branch_depth} blocks, not {depth}.",
            "Give --depth or --branch-depth, not both.",
        )
    return branches * branch_depth


def _checkpoint(path: Path) -> Checkpoint:
    """A checkpoint, or a conversion of one level, whose words and classes are not known."""
    if not path.is_dir() and path.suffix != ".pt2":
        return load(path)
    from parallelize.models.para_former import load_para_former

    model = load_para_former(path)
    return Checkpoint(model.config, model.state_dict())


def _check(sizes: Sizes, beginning: Beginning) -> None:
    """Refuse what cannot be asked for together."""
    if beginning.init is not None and beginning.grow is not None:
        raise TrainingError("A training begins with one checkpoint, and --init and --grow name two.", _HINT)
    if beginning.grow is None and beginning.train_old:
        raise TrainingError("--train-old is for a checkpoint that is grown.", "Name it with --grow, or leave it out.")
    if sizes.mode == "serial" and (beginning.grow is not None or (sizes.branches or 1) > 1):
        raise TrainingError(
            "A serial network has no branches, and some are asked for.", "Leave --mode out, or ask for para-former."
        )
    if beginning.grow is not None and sizes.branches is None:
        raise TrainingError(
            f"How many branches {beginning.grow} is grown to is not said.", "Say it with --branches, old ones included."
        )


def _check_sizes(config: ParaFormerConfig, sizes: Sizes, path: Path) -> None:
    """Refuse sizes that are not those of a checkpoint."""
    for name, value in sizes.given.items():
        has = getattr(config, name, None)
        if has != value:
            spelled = name.replace("_", "-")
            found = f"no {spelled}" if has is None else f"{spelled} {has}"
            raise CheckpointError(
                f"{path} has {found}, and {value} is asked for.", f"Leave --{spelled} out, or name another checkpoint."
            )


def _last(trainer: Trainer) -> str:
    """The scores of the last epoch, for the line of the next."""
    if not trainer.history:
        return ""
    record = trainer.history[-1]
    prefixes = f" ({' '.join(f'{share:.1%}' for share in record.prefixes)})" if record.prefixes else ""
    held_out = "" if record.held_out_top1 is None else f", held out {record.held_out_top1:.2%}"
    return f", top-1 {record.top1:.2%}{prefixes}{held_out}"
