"""Latencies that a command predicts for a GPU that is not here, at the sizes at which it times what is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from parallelize.data import Samples
from parallelize.models.program import Program
from parallelize.predicting.kernel import Precision
from parallelize.predicting.kernels import kernels
from parallelize.predicting.latency import milliseconds
from parallelize.predicting.target import Target, load_target
from passes.errors import ParallelizeError


@dataclass(frozen=True)
class AskedFor:
    """A target, and what it is asked for.

    Attributes:
        target: the GPU.
        precision: of the networks' numbers there.
    """

    target: Target
    precision: Precision

    @classmethod
    def of(cls, name: str | None, precision: Precision | None) -> AskedFor | None:
        """The target of that name or file; None where none is named.

        Args:
            name: of the target.
            precision: None is the first that the target has.

        Raises:
            ParallelizeError: there is no such target, it has no numbers for the precision, or a precision is named
                and no target.
        """
        if name is None and precision is not None:
            raise ParallelizeError(
                f"The precision {precision} is that of a target, and none is named.", "Name one, as in --target h200."
            )
        if name is None:
            return None
        target = load_target(name)
        chosen = precision or cast("Precision", target.precisions[0])
        target.require(chosen)
        return cls(target, chosen)

    def milliseconds(self, program: Program, samples: Samples) -> float:
        """The predicted latency of one call on one sample.

        Raises:
            ParallelizeError: an operator whose kernels are not known before it runs.
        """
        return milliseconds(kernels(program, _sizes(program, samples), self.precision), self.target)

    def as_dict(self) -> dict[str, Any]:
        """What a reader of predicted numbers must know."""
        return {
            "gpu": self.target.gpu,
            "precision": self.precision,
            "error": self.target.error,
            "error_of": self.target.error_of,
            "measured_on": dict(self.target.measured_on),
        }


def _sizes(program: Program, samples: Samples) -> dict[str, int]:
    """The free dimensions of a program on one sample."""
    return {
        size: number
        for spec, tensor in zip(program.inputs, samples.batch(1), strict=True)
        for size, number in zip(spec.shape, tensor.shape, strict=True)
        if isinstance(size, str) and size.isidentifier()
    }
