"""Sizes of Para-Formers as plain frozen dataclasses: what all have, what images need, what tokens need.

Every field is a number or a word, so that a checkpoint stores a config as it is. The serial twin of a config has
`mode="serial"`, one branch of all blocks, and is alike otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from paraformer.modes import Merge, Mode, Pooling, Task


@dataclass(frozen=True, kw_only=True)
class ParaFormerConfig:
    """What the blocks of every Para-Former are told; features and counts.

    Attributes:
        classes: logits of a classifier.
        depth: blocks in all.
        width: features of the state.
        heads: attention heads of a block.
        hidden: features between the two linears of an MLP.
        mode: serial, or branches that all read the embedding.
        branches: of a para-former; each is a run of depth / branches neighbouring blocks. A serial network has one.
        merge: what becomes of the branches.
        pooling: what a classifier reads.

    Raises:
        ValueError: a size that does not divide as it must, or an unknown word.
    """

    classes: int = 10
    depth: int = 12
    width: int = 64
    heads: int = 4
    hidden: int = 256
    mode: Mode = "serial"
    branches: int = 1
    merge: Merge = "added"
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        self._check_sizes(("classes", "depth", "width", "heads", "hidden"))
        self._check_word("mode", get_args(Mode))
        self._check_word("merge", get_args(Merge))
        self._check_word("pooling", get_args(Pooling))
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        if not isinstance(self.branches, int) or self.branches < 1 or self.depth % self.branches:
            raise ValueError(f"branches {self.branches} does not divide depth {self.depth}")

    def _check_sizes(self, names: Sequence[str]) -> None:
        for name in names:
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a whole number from 1, not {size!r}")

    def _check_word(self, name: str, known: Sequence[str]) -> None:
        word = getattr(self, name)
        if word not in known:
            *most, last = map(repr, known)
            raise ValueError(f"{name} must be {', '.join(most)} or {last}, not {word!r}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, the longest where lengths differ."""
        raise NotImplementedError

    @property
    def branch_count(self) -> int:
        """Branches that run side by side: one in a serial network, whatever `branches` says."""
        return self.branches if self.mode == "para-former" else 1

    @property
    def branch_depth(self) -> int:
        """Blocks of a branch."""
        return self.depth // self.branch_count

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as a checkpoint stores them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class VisionConfig(ParaFormerConfig):
    """Sizes of an image classifier.

    Attributes:
        image_size: pixels of an image's side.
        patch_size: pixels of a patch's side.
        channels: of an image.
        pixel_mean: of the training images, values from 0 to 255.
        pixel_std: their standard deviation.
    """

    image_size: int = 28
    patch_size: int = 4
    channels: int = 1
    pixel_mean: float = 72.94
    pixel_std: float = 90.02

    def __post_init__(self) -> None:
        self._check_sizes(("image_size", "patch_size", "channels"))
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one sample: channels, height, width."""
        return (self.channels, self.image_size, self.image_size)

    @property
    def tokens(self) -> int:
        """Tokens of the state: the patches, and the learned one where it is read."""
        return int((self.image_size // self.patch_size) ** 2 + (self.pooling == "cls"))


@dataclass(frozen=True, kw_only=True)
class TokenConfig(ParaFormerConfig):
    """Sizes of a token model.

    Attributes:
        vocabulary: different tokens.
        length: most tokens of a sequence.
        task: one class for a sequence, or at each token what comes after it; then attention is causal and `classes` and
            `pooling` are not read.
    """

    vocabulary: int = 1000
    length: int = 128
    task: Task = "classify"

    def __post_init__(self) -> None:
        self._check_sizes(("vocabulary", "length"))
        self._check_word("task", get_args(Task))
        super().__post_init__()

    @property
    def input_shape(self) -> tuple[int]:
        """Shape of the longest sample."""
        return (self.length,)

    @property
    def causal(self) -> bool:
        """Whether a token sees those before it only."""
        return self.task == "next-token"

    @property
    def has_cls(self) -> bool:
        """Whether a learned token stands before the others."""
        return self.pooling == "cls" and not self.causal
