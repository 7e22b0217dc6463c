"""What a training is asked for beside how it learns: samples, sizes and checkpoints to begin with.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paraformer.modes import Merge, Mode, Pooling, Task
from parallelize.terminal.option_field import option

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes that are asked for; None is what the data, a checkpoint or the model itself says."""

    mode: Mode | None = option(
        None, "Serial, or branches that all read the embedding (default: the latter where there are --branches)."
    )
    branches: int | None = option(None, "Branches of a para-former, runs of equally many blocks.", least=1)
    depth: int | None = option(None, "Blocks in all (default: 12).", least=1)
    branch_depth: int | None = option(None, "Blocks of each branch, in place of --depth.", least=1)
    width: int | None = option(None, "Features of the state (default: 64).", least=1)
    heads: int | None = option(None, "Attention heads (default: 4).", least=1)
    hidden: int | None = option(None, "Hidden features of an MLP (default: 4 x width).", least=1)
    merge: Merge | None = option(
        None, "x and what branches add; outputs, each with its own x; or their mean (default: added)."
    )
    pooling: Pooling | None = option(None, "What the head reads: the mean, or a learned token (default: mean).")
    patch_size: int | None = option(None, "Pixels of a patch's side (default: 4).", least=1)
    task: Task | None = option(None, "Of a model of texts (default: classify).")

    @property
    def given(self) -> dict[str, str | int]:
        """Those that are asked for, by their names."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What is learned from."""

    data: Path = option(FASHION_MNIST, "IDX files, CIFAR-10, pictures by class, .npz, or texts.", metavar="DIR|FILE")
    image_size: int | None = option(None, "Pixels of the side that pictures by class are brought to.", least=1)
    length: int | None = option(None, "Tokens that longer texts are cut to.", least=1)
    limit: int | None = option(None, "Train and test on the first N samples only.", least=1)


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What is there before the training. At most one of `init` and `grow` is given."""

    init: Path | None = option(
        None, "Begin with these weights: a checkpoint, or a conversion of one level.", metavar="FILE.pt|DIR"
    )
    grow: Path | None = option(
        None, "Add branches to this checkpoint, up to --branches; what it has stays as it is.", metavar="FILE.pt"
    )
    train_old: bool = option(False, "Train on what the grown checkpoint has.", name="--train-old")
    teacher: Path | None = option(None, "Learn the answers of this checkpoint beside the labels.", metavar="FILE.pt")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """How the processes that torchrun has started share a training."""

    branch_ranks: int = option(
        1, "Processes that share the branches; all by so many share the samples of each batch.", least=1
    )
