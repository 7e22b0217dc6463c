"""An artefact: what a user names to be compared or timed, and the backend that is to run it.

    model.pt2   out/   timm:vit_tiny_patch16_224   model.onnx   model.engine       in the default of its kind
    model.pt2@torch-compile   model.onnx@onnxruntime-cuda   out@onnxruntime        in a backend by its name

From Python also captured programs, modules, which are captured on the inputs that they are compared or timed on, and
what `parallelize.load` gave.

A directory that `convert` wrote stands for its model.pt2, model.onnx or model.engine: what the backend takes first.
Beside these there may be prefixes of the model, such as prefix_2.onnx, and prefixes.onnx, which answers after each.
Where a file says which backend it is of, as an engine does, the name of the kind's default stands for that one: an
engine runs in the library that built it, @tensorrt names either library, @tensorrt-rtx that one alone.
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from parallelize.backends.backend import PROGRAM, Backend, FileKind
from parallelize.backends.registry import backends, file_kinds, named, takers
from parallelize.backends.runner import Runner
from parallelize.backends.runner_options import RunnerOptions
from parallelize.models.program import Program
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    from parallelize.models.source import Model

_PREFIX = re.compile(r"prefix_(\d+)")
EVERY_PREFIX = "prefixes"
_SPELLED = re.compile(r"(?P<reference>.+)@(?P<backend>[a-z][a-z-]*)", re.DOTALL)


@dataclass(frozen=True)
class Artefact:
    """What is to be run.

    Attributes:
        label: what the user called it.
        source: a program, a module, or a path or reference.
        kind: what backends take it.
        backend: the one that runs it.
    """

    label: str
    source: Program | str | nn.Module
    kind: FileKind
    backend: Backend

    @property
    def path(self) -> Path | None:
        """The file, where it is one."""
        return Path(self.source) if isinstance(self.source, str) and Path(self.source).is_file() else None

    @property
    def plan(self) -> Path | None:
        """The plan.json that `convert` wrote beside the model."""
        if not self._is_product:
            return None
        assert self.path is not None
        beside = self.path.with_name("plan.json")
        return beside if beside.is_file() else None

    @property
    def prefixes(self) -> tuple[Artefact, ...]:
        """The prefixes that `convert` wrote beside the model, the shortest first, then what answers after each."""
        if not self._is_product:
            return ()
        assert self.path is not None
        files = self.path.parent.glob(f"*{self.kind.suffix}")
        found = {path: match for path in files if (match := _PREFIX.fullmatch(path.stem))}
        paths = {f"prefix {found[path][1]}": path for path in sorted(found, key=lambda path: int(found[path][1]))}
        every = self.path.with_name(f"{EVERY_PREFIX}{self.kind.suffix}")
        paths |= {"every prefix": every} if every.is_file() else {}
        return tuple(replace(self, label=f"{self.label}, {name}", source=str(path)) for name, path in paths.items())

    @property
    def _is_product(self) -> bool:
        """Whether it is the model in a directory of `convert`."""
        return self.path is not None and self.path.name in [kind.product for kind in file_kinds()]

    def opened(self, options: RunnerOptions) -> AbstractContextManager[Runner]:
        """What runs it; what that holds is freed when the block ends.

        Raises:
            EnvironmentLackError: the machine lacks a GPU or a library.
            ParallelizeError: it cannot be loaded.
        """
        return self.backend.opened(self.source, self.kind, options)


class Loadable(Protocol):
    """What knows how it is named here: a loaded network."""

    @property
    def artefact(self) -> Program | str:
        """A program, or a file with the backend behind an @."""
        ...


def parse_artefact(given: Model | Loadable) -> Artefact:
    """Tell what a user named.

    Raises:
        ParallelizeError: an unknown backend, one that does not take this kind, or a file that does not exist.
    """
    named: Any = getattr(given, "artefact", given)
    if isinstance(named, Program):
        return Artefact(named.origin, named, PROGRAM, takers(PROGRAM)[0])
    if isinstance(named, nn.Module):
        return Artefact(type(named).__name__, named, PROGRAM, takers(PROGRAM)[0])
    text = os.fspath(named)
    reference, backend = _split(text)
    path = Path(reference)
    if (path / "report.json").is_file() or (path / PROGRAM.product).is_file():
        kind = PROGRAM if backend is None else backend.takes[0]
        return _existing(text, path / kind.product, kind, backend)
    for kind in file_kinds():
        if kind != PROGRAM and path.suffix.lower() == kind.suffix:
            return _existing(text, path, kind, backend)
    return _fits(Artefact(text, reference, PROGRAM, backend or takers(PROGRAM)[0]))


def _split(text: str) -> tuple[str, Backend | None]:
    """A reference and the backend behind its @, where there is one."""
    found = _SPELLED.fullmatch(text)
    if found is None or Path(text).exists():
        return text, None
    backend = named(found["backend"])
    if backend is None:
        known = ", ".join(each.name for each in backends())
        raise ParallelizeError(
            f"There is no runner {found['backend']!r}.", f"Spell it as MODEL@RUNNER with one of {known}."
        )
    return found["reference"], backend


def _existing(label: str, path: Path, kind: FileKind, backend: Backend | None) -> Artefact:
    if not path.is_file():
        raise ParallelizeError(f"{path} does not exist.", "Check the path.")
    default, *_ = known = takers(kind)
    if backend is None or backend == default:
        backend = next((each for each in known if each.owns(path)), default)
    return _fits(Artefact(label, str(path), kind, backend))


def _fits(artefact: Artefact) -> Artefact:
    if artefact.kind in artefact.backend.takes:
        return artefact
    names = ", ".join(backend.name for backend in takers(artefact.kind))
    raise ParallelizeError(
        f"{artefact.backend.name} does not run {artefact.label}, which is {artefact.kind.what}.",
        f"Its runners are {names}.",
    )
