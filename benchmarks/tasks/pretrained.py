"""Pretrained models of the cache, loaded by transformers: float32, eval mode, SDPA attention, no network."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from parallelize.models.capture import quiet_logs
from passes.errors import EnvironmentLackError

_INSTALL_HINT = 'Install what reads it with `pip install "parallelize[bench]"`.'


def load_model(kind: str, directory: Path, **options: Any) -> Any:
    """A model of a class of transformers.

    Raises:
        EnvironmentLackError: transformers, or what it needs to read the file, is not installed.
    """
    return _loaded(kind, directory, dtype=torch.float32, attn_implementation="sdpa", **options).eval()


def load_tokenizer(directory: Path, **options: Any) -> Any:
    """The tokenizer that belongs to a model.

    Raises:
        EnvironmentLackError: transformers, or what it needs to read the file, is not installed.
    """
    return _loaded("AutoTokenizer", directory, **options)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the logs of transformers and its bars, not all of which can be disabled."""
    with quiet_logs(), redirect_stderr(io.StringIO()):
        yield


def _loaded(kind: str, directory: Path, **options: Any) -> Any:
    transformers = _transformers()
    try:
        with quiet():
            return getattr(transformers, kind).from_pretrained(directory, local_files_only=True, **options)
    except ImportError as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise EnvironmentLackError(f"{directory.name} cannot be loaded: {why}.", _INSTALL_HINT) from error


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise EnvironmentLackError(
            "Pretrained models cannot be loaded: transformers is not installed.", _INSTALL_HINT
        ) from error
    return transformers
