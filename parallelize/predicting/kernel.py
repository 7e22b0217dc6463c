"""What a GPU is asked to do: one kernel by its sizes, and all kernels of one call of a network.

Sizes, not names: two kernels of equal sizes take equal time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
WIDTHS: dict[Precision, int] = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}  # bytes of a number
Kind = Literal["product", "convolution", "attention", "norm", "pointwise", "copy"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        kind: a matrix product, a convolution, a fused attention, something that reduces rows (norms, softmaxes, sums),
            something elementwise, something that only moves values.
        bytes: that are read and written, parameters among them.
        batch: products side by side: of a product its batch, of an attention sequences times heads.
        rows: m of a product (m, k) @ (k, n); queries of an attention; 0 for other kinds, as are the next two.
        columns: n of a product; keys of an attention.
        inner: k of a product; values of a head.
    """

    kind: Kind
    bytes: int
    batch: int = 0
    rows: int = 0
    columns: int = 0
    inner: int = 0

    @property
    def flops(self) -> int:
        """Of its products: one for a product, two for an attention."""
        one = 2 * self.batch * self.rows * self.columns * self.inner
        return 2 * one if self.kind == "attention" else one


@dataclass(frozen=True)
class Launch:
    """A kernel, and how often a call launches it."""

    kernel: Kernel
    times: int


@dataclass(frozen=True)
class Kernels:
    """The kernels of one call, one after another on one stream.

    Attributes:
        launches: each kernel once.
        precision: of its floating-point numbers.
    """

    launches: tuple[Launch, ...]
    precision: Precision

    @classmethod
    def of(cls, kernels: Iterable[Kernel], precision: Precision) -> Kernels:
        """Kernels in the order in which they were listed, equal ones together."""
        return cls(tuple(Launch(kernel, times) for kernel, times in Counter(kernels).items()), precision)

    @property
    def count(self) -> int:
        """How many kernels a call launches."""
        return sum(launch.times for launch in self.launches)

    @property
    def flops(self) -> int:
        """Of all products."""
        return sum(launch.times * launch.kernel.flops for launch in self.launches)
