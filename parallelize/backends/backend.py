"""What a backend is: what it is called, which kinds of files it runs, what it lacks here, and how it opens them.

A new one is one file: a subclass of `Backend` with its value, which `registry` lists. Commands, artefacts and doctor
ask the value and know no name. Describing one imports nothing heavy: its libraries are imported when it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parallelize.machine.findings import Finding, looked_at

if TYPE_CHECKING:  # they import torch, which --help does without
    from torch import nn

    from parallelize.backends.runner import Runner
    from parallelize.backends.runner_options import RunnerOptions
    from parallelize.models.program import Program
    from passes.errors import EnvironmentLackError


@dataclass(frozen=True)
class FileKind:
    """A kind of file that backends run.

    Attributes:
        name: for programs.
        what: for sentences, with its article.
        suffix: of its files.
    """

    name: str
    what: str
    suffix: str

    @property
    def product(self) -> str:
        """What a file of this kind is called in a directory of `convert`."""
        return f"model{self.suffix}"


PROGRAM = FileKind("program", "a program", ".pt2")  # and whatever reference can be captured
ONNX = FileKind("onnx", "an ONNX file", ".onnx")


@dataclass(frozen=True)
class Backend(ABC):
    """One way to run a network.

    Attributes:
        name: behind the @ of an artefact.
        title: for sentences and for doctor.
        takes: the kinds of files that it runs; in a directory of `convert` it is given the first of them.
        install: how to install what it needs.
        enables: what doctor says it is for; empty where another line of doctor tells of it.
        hides: why values inside of its networks cannot be read, such as "compiled"; empty where they can.
    """

    name: str
    title: str
    takes: tuple[FileKind, ...]
    install: str = ""
    enables: str = ""
    hides: str = ""

    @abstractmethod
    def found(self) -> str:
        """The version that is installed, and what it can do on this machine; raises whatever a broken package does."""

    @abstractmethod
    def opened(
        self, source: Program | str | nn.Module, kind: FileKind, options: RunnerOptions
    ) -> AbstractContextManager[Runner]:
        """What runs a file of a kind that it takes; what that holds is freed when the block ends.

        Raises:
            EnvironmentLackError: the machine lacks a GPU or a library.
            ParallelizeError: the file cannot be loaded.
        """

    def lack(self) -> EnvironmentLackError | None:
        """What this machine lacks for it, with what to do about that."""
        return None

    def owns(self, file: Path) -> bool:
        """Whether a file of a kind that several backends take says that it is of this one."""
        del file
        return False

    def finding(self) -> Finding:
        """What doctor says of it."""
        return looked_at(self.title, self.found, self.enables, self.install)
