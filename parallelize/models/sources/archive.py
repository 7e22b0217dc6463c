"""`model.pt2`, or a directory of `convert` with one in it: an archive of torch.export, which states its inputs."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from parallelize.data import Array, readable
from parallelize.machine.quiet import quiet_logs
from parallelize.models.capture import from_exported
from parallelize.models.program import Program
from parallelize.models.source import LoadOptions
from parallelize.models.sources.kinds import Kind, has_suffix, refuse_extras
from parallelize.models.sources.torch_file import PICKLE_HINT
from parallelize.models.sources.user_code import described
from passes.errors import ParallelizeError

# Entries of a .pt2 that the loader unpickles whatever it is told: compiled classes and opaque objects.
_OBJECTS = re.compile(r"(custom|opaque)_obj")
_FORCE_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_PRODUCT = "model.pt2"


def is_converted(reference: str) -> bool:
    """Whether the reference is a directory that `convert` wrote."""
    return (Path(reference) / _PRODUCT).is_file()


def load_converted(reference: str, options: LoadOptions, samples: Mapping[str, Array]) -> Program:
    """Read the archive in a directory of `convert`."""
    return load(str(Path(reference) / _PRODUCT), options, samples)


def load(reference: str, options: LoadOptions, _samples: Mapping[str, Array]) -> Program:
    """Read an archive. It is held to tensors unless unpickling is allowed."""
    path = readable(Path(reference))
    refuse_extras(reference, options, inputs=True)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ParallelizeError(
            f"{path} is damaged or not a torch.export archive.", "Write it again with torch.export.save."
        ) from error
    if not options.allow_pickle and any(_OBJECTS.match(Path(name).name) for name in names):
        raise ParallelizeError(f"{path} holds pickled objects.", PICKLE_HINT)
    try:
        with quiet_logs(), _without_pickles(allow=options.allow_pickle):
            exported = torch.export.load(path)
    except pickle.UnpicklingError as error:
        raise ParallelizeError(f"{path} holds pickled objects.", PICKLE_HINT) from error
    except Exception as error:  # the loader raises whatever its parts raise
        raise ParallelizeError(
            f"{path} is damaged or was written by a PyTorch that this one does not understand ({described(error)}).",
            "Write it again with torch.export.save.",
        ) from error
    return from_exported(exported, reference)


@contextmanager
def _without_pickles(*, allow: bool) -> Iterator[None]:
    """Hold the archive loader to tensors; without this it unpickles what it cannot read otherwise."""
    before = os.environ.get(_FORCE_SAFE)
    if not allow:
        os.environ[_FORCE_SAFE] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ[_FORCE_SAFE] = before
        elif not allow:
            del os.environ[_FORCE_SAFE]


KINDS = (
    Kind("a directory of convert", is_converted, load_converted, place=20),
    Kind("FILE.pt2", has_suffix(".pt2"), load, place=40),
)
