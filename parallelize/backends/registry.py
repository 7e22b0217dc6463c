"""The backends that there are: the one list that commands, artefacts, doctor and help texts go through.

Of several that take a kind of file, the first is its default.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from parallelize.backends.backend import Backend, FileKind
from parallelize.backends.onnxruntime.backend import ONNXRUNTIME, ONNXRUNTIME_CUDA
from parallelize.backends.tensorrt.rtx import RTX_BACKEND
from parallelize.backends.tensorrt.tensorrt import TENSORRT_BACKEND
from parallelize.backends.torch.backend import TORCH, TORCH_COMPILE

_OURS = (TORCH, TORCH_COMPILE, ONNXRUNTIME, ONNXRUNTIME_CUDA, TENSORRT_BACKEND, RTX_BACKEND)
_known: dict[str, Backend] = {backend.name: backend for backend in _OURS}


def backends() -> tuple[Backend, ...]:
    """All of them."""
    return tuple(_known.values())


def named(name: str) -> Backend | None:
    """The backend of a name."""
    return _known.get(name)


def takers(kind: FileKind) -> tuple[Backend, ...]:
    """The backends that run a kind of file; the first is its default."""
    return tuple(backend for backend in backends() if kind in backend.takes)


def file_kinds() -> tuple[FileKind, ...]:
    """The kinds of files that some backend runs."""
    return tuple(dict.fromkeys(kind for backend in backends() for kind in backend.takes))


@contextmanager
def registered(backend: Backend) -> Iterator[None]:
    """Know one more backend for as long as the block lasts.

    Raises:
        ValueError: there is one of that name.
    """
    if backend.name in _known:
        raise ValueError(f"There is a backend {backend.name!r} already.")
    _known[backend.name] = backend
    try:
        yield
    finally:
        del _known[backend.name]
