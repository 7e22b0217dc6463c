"""How much of a model was run, in **forward passes** of all of it over all calibration samples.

The unit depends on no machine. A part that is run on some samples counts as its matrix products do beside those of the
model, so it leaves out what is done with the values afterwards: sums of normal equations, their solution.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.machine.ranks import Ranks
from passes.graph.operators import gemms

T = TypeVar("T")
R = TypeVar("R")

_COUNTING: ContextVar[Effort | None] = ContextVar("effort", default=None)
_PRODUCTS = "matrix products"  # in the metadata of a module that was run


@dataclass(eq=False)
class Effort:
    """What was run while it counted.

    Attributes:
        products: matrix products, each as often as there were rows in the model's first input.
    """

    products: int = 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is run while this is open."""
        before = _COUNTING.set(self)
        try:
            yield
        finally:
            _COUNTING.reset(before)

    def forward_passes(self, model: fx.GraphModule, *samples: Samples) -> float:
        """The effort in forward passes of the model over samples."""
        whole = 0
        for part in samples:
            size = part.fixed or 1
            whole += _products(model) * _rows(part.batch(size)) * len(part) // size
        return self.products / max(whole, 1)


def counted_spread(ranks: Ranks, name: str, measure: Callable[[T], R]) -> Callable[[Sequence[T]], Iterator[R]]:
    """`Ranks.spread`, where what the other ranks run is counted as if it were run here."""

    def counted(item: T) -> tuple[R, int]:
        effort = Effort()
        with effort.counting():
            value = measure(item)
        return value, effort.products

    spread = ranks.spread(name, counted)

    def measured(items: Sequence[T]) -> Iterator[R]:
        for value, products in spread(items):
            effort = _COUNTING.get()
            if effort is not None:
                effort.products += products
            yield value

    return measured


def note_run(module: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    """Tell that a module, whose first input is the model's, is run once."""
    effort = _COUNTING.get()
    if effort is not None:
        effort.products += _products(module) * _rows(inputs)


def _products(module: fx.GraphModule) -> int:
    if _PRODUCTS not in module.meta:
        module.meta[_PRODUCTS] = sum(map(gemms, module.graph.nodes))
    found: int = module.meta[_PRODUCTS]
    return found


def _rows(inputs: Sequence[Tensor]) -> int:
    return len(inputs[0]) if inputs and inputs[0].ndim else 1
