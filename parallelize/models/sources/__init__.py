"""MODEL on the command line: what a reference names, and how it becomes a captured program.

    DIR with config.json      a model that Hugging Face's `save_pretrained` wrote, an adapter of peft merged into it
    DIR of `convert`          its model.pt2
    timm:NAME                 a model of timm, by its name there
    model.pt2                 a torch.export archive
    model.pt, model.pth       a Para-Former checkpoint, or with --allow-pickle a pickled module
    package.module:factory    a callable without arguments that returns a module, or a module itself
    path/to/file.py:factory   the same from a file

Each kind of reference is a `Kind` among the `KINDS` of one file of this package, which is found by itself. No file is
unpickled unless the user asks for it: a pickle runs code.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from parallelize.data import Array
from parallelize.models.program import Program
from parallelize.models.source import LoadOptions
from parallelize.models.sources.kinds import Kind
from passes.errors import ParallelizeError

__all__ = ["Kind", "LoadOptions", "known_kinds", "load_program"]


def load_program(reference: str, options: LoadOptions, samples: Mapping[str, Array] | None = None) -> Program:
    """Load what a reference names and capture it.

    Args:
        reference: as in the module's docstring.
        options: weights and shapes for factories, permission to unpickle.
        samples: arrays of data, first axis samples; they tell the shapes where `options.input_specs` does not.

    Raises:
        ParallelizeError: the reference names nothing that can be loaded and captured.
    """
    kind = next((kind for kind in known_kinds() if kind.matches(reference)), None)
    if kind is not None:
        return kind.load(reference, options, samples or {})
    hint = f"MODEL is one of {', '.join(kind.spelling for kind in known_kinds())}."
    if Path(reference).is_dir():
        raise ParallelizeError(f"{reference} is a directory, not a model.", hint)
    if Path(reference).suffix == ".safetensors" or reference.endswith(".index.json"):
        raise ParallelizeError(
            f"{reference} is a state dict: weights without a model.",
            f"Name the model too: package.module:factory --weights {reference}.",
        )
    if Path(reference).exists():
        raise ParallelizeError(f"{reference} is not a model that can be read.", hint)
    raise ParallelizeError(f"{reference} is neither a file nor a factory.", hint)


def _found() -> Iterator[Kind]:
    """The kinds of every file of this package."""
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        module = __import__(info.name, globals(), fromlist=["_"])  # told apart from the user's imports by its globals
        yield from getattr(module, "KINDS", ())


def known_kinds() -> tuple[Kind, ...]:
    """All kinds of references, in the order in which they are asked: the first one that matches loads."""
    return tuple(sorted(_found(), key=lambda kind: kind.place))
