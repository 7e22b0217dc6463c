"""What is measured of a GPU: chains of equal kernels, from the smallest to those that keep the whole GPU busy.

    products      rows from one token to thousands, widths of models; each link reads its own weights, as layers do
    attentions    sequences times heads from 3 to 384, up to 2,048 tokens
    convolutions  patch embeddings and 3 x 3
    memory        norms, sums and transposed copies of 4 KB to 256 MB; one element again and again

A chain has up to 32 links, two at least, and no more than move 256 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from parallelize.predicting.kernel import WIDTHS, Kernel, Kernels, Kind, Precision

Call = Callable[[], object]

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_LINKS, _BYTES = 32, 2**28  # of a chain at most
_ROWS = (1, 16, 64, 200, 512, 2048)
_MATRICES = (  # columns, inner
    (192, 192),
    (768, 192),
    (192, 768),
    (768, 768),
    (3072, 768),
    (768, 3072),
    (9216, 768),
    (768, 9216),
    (4096, 1024),
    (4096, 4096),
)
_ATTENTIONS = (  # sequences times heads, tokens, values of a head
    (3, 64, 64),
    (12, 128, 64),
    (12, 512, 64),
    (48, 200, 64),
    (72, 32, 32),
    (144, 200, 64),
    (384, 128, 64),
    (12, 1024, 64),
    (32, 2048, 128),
)
_CONVOLUTIONS = (  # samples, channels, side, kernel, stride, channels out
    (1, 3, 224, 16, 16, 192),
    (1, 3, 224, 16, 16, 768),
    (8, 3, 224, 16, 16, 384),
    (32, 3, 224, 16, 16, 768),
    (1, 64, 56, 3, 1, 64),
    (8, 128, 28, 3, 1, 128),
    (32, 64, 56, 3, 1, 64),
)
_SIDES = (32, 128, 512, 1024, 2048, 4096, 8192)  # of square matrices that are moved
_SINGLE = (1, 32, 256)  # links that add one to one element


@dataclass(frozen=True)
class Trial:
    """A chain.

    Attributes:
        kernels: that it launches.
        make: allocates what it reads, and gives the call.
    """

    kernels: Kernels
    make: Callable[[torch.device], Call]


def sweep(precisions: Sequence[Precision]) -> list[Trial]:
    """What is measured in each precision, and once what only moves bytes, in the first of them."""
    tiled = [trial for precision in precisions for trial in tiled_trials(precision)]
    return [*tiled, *memory_trials(precisions[0])]


def tiled_trials(precision: Precision) -> Iterator[Trial]:
    """Products, attentions and convolutions of one precision."""
    for columns, inner in _MATRICES:
        for rows in _ROWS:
            weights = [(columns, inner), (columns,)]
            chain = _Chain(functional.linear, ((rows, inner),), precision, weights)
            yield chain.trial("product", 1, rows, columns, inner, written=rows * columns)
    for batch, tokens, inner in _ATTENTIONS:
        chain = _Chain(functional.scaled_dot_product_attention, ((1, batch, tokens, inner),) * 3, precision)
        yield chain.trial("attention", batch, tokens, tokens, inner, written=batch * tokens * inner)
    for samples, channels, side, kernel, stride, out in _CONVOLUTIONS:
        call = partial(functional.conv2d, stride=stride, padding=0 if stride == kernel else kernel // 2)
        chain = _Chain(call, ((samples, channels, side, side),), precision, [(out, channels, kernel, kernel)])
        rows = samples * (side // stride) ** 2
        yield chain.trial("convolution", 1, rows, out, channels * kernel**2, written=rows * out)


def memory_trials(precision: Precision) -> Iterator[Trial]:
    """What moves bytes, and what moves next to none."""
    for links in _SINGLE:
        chain = _Chain(torch.neg, ((1,),), precision, links=links)
        yield chain.trial("pointwise", written=1)
    for side in _SIDES:
        yield _Chain(torch.add, ((side, side),) * 2, precision).trial("pointwise", written=side * side)
        yield _Chain(_transposed, ((side, side),), precision).trial("copy", written=side * side)
        yield _Chain(partial(functional.layer_norm, normalized_shape=[side]), ((side, side),), precision).trial(
            "norm", written=side * side
        )


def _transposed(x: Tensor) -> Tensor:
    return x.t().contiguous()


@dataclass(frozen=True)
class _Chain:
    """An operator called again and again.

    Attributes:
        function: that launches one kernel.
        inputs: shapes of what all links read.
        precision: of all numbers.
        own: shapes of what each link reads alone.
        links: how many; 0 is as many as the bytes allow.
    """

    function: Callable[..., Any]
    inputs: Sequence[tuple[int, ...]]
    precision: Precision
    own: Sequence[tuple[int, ...]] = ()
    links: int = 0

    def trial(self, kind: Kind, *sizes: int, written: int) -> Trial:
        """The chain, with the sizes of its kernel and the numbers that each link writes."""
        read = sum(torch.Size(shape).numel() for shape in (*self.inputs, *self.own))
        kernel = Kernel(kind, (read + written) * WIDTHS[self.precision], *sizes)
        links = self.links or max(2, min(_LINKS, _BYTES // kernel.bytes))
        return Trial(Kernels.of([kernel] * links, self.precision), partial(self._make, links))

    def _make(self, links: int, device: torch.device) -> Call:
        make = partial(torch.rand, dtype=DTYPES[self.precision], device=device)
        inputs = [make(shape) for shape in self.inputs]
        own = [[make(shape) for shape in self.own] for _ in range(links)]

        def call() -> object:
            result: object = None
            for tensors in own:
                result = self.function(*inputs, *tensors)
            return result

        return call
