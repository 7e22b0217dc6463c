"""What a network returns: one tensor, a tuple, or a dictionary by the names of its outputs.

A program's graph says so itself. ONNX files and engines return a list; what `write_onnx` writes says in its metadata
what that list was, also where an output had to be renamed there. Of other files it is told by the names: a single
output is a tensor, several are a dictionary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, fx

from parallelize.models.program import Program, is_unnamed

KEY = "parallelize.returns"
Container = Literal["tensor", "tuple", "dict"]


@dataclass(frozen=True)
class Returned:
    """What a network returns.

    Attributes:
        container: of the outputs.
        names: of the outputs, in order.
    """

    container: Container
    names: tuple[str, ...]

    @staticmethod
    def of(program: Program) -> Returned:
        """What the graph of a program returns."""
        (result,) = program.module.graph.output_node().args
        names = tuple(spec.name for spec in program.outputs)
        if isinstance(result, fx.Node):
            return Returned("tensor", names)
        return Returned("dict" if isinstance(result, Mapping) else "tuple", names)

    @staticmethod
    def named(names: Sequence[str]) -> Returned:
        """What outputs of these names are where nothing else is known."""
        if len(names) == 1:
            return Returned("tensor", tuple(names))
        return Returned("tuple" if all(map(is_unnamed, names)) else "dict", tuple(names))

    def to_metadata(self) -> str:
        """What stands in a file under KEY."""
        return json.dumps({"container": self.container, "names": self.names}, separators=(",", ":"))

    @staticmethod
    def from_metadata(text: str | None, names: Sequence[str]) -> Returned:
        """What `to_metadata` wrote; told by the file's own names of the outputs where that is not it."""
        try:
            value: Any = json.loads(text or "")
            found = Returned(value["container"], tuple(value["names"]))
        except (ValueError, KeyError, TypeError):
            return Returned.named(names)
        fits = len(found.names) == len(names) and all(isinstance(name, str) for name in found.names)
        return found if fits and found.container in get_args(Container) else Returned.named(names)

    def packed(self, outputs: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        """The outputs as the network returns them."""
        if self.container == "tensor":
            return outputs[0]
        return tuple(outputs) if self.container == "tuple" else dict(zip(self.names, outputs, strict=True))
