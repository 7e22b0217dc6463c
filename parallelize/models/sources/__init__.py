"""MODEL on the command line: what a reference names, and how it becomes a captured program.

    DIR with config.json      a model that Hugging Face's `save_pretrained` wrote, an adapter of peft merged into it
    DIR of `convert`          its model.pt2
    timm:NAME                 a model of timm, by its name there
    model.pt2                 a torch.export archive
    model.pt, model.pth       a Para-Former checkpoint, or with --allow-pickle a pickled module
    package.module:factory    a callable without arguments that returns a module, or a module itself
    path/to/file.py:factory   the same from a file

Each kind of reference is one row of `KINDS` and one file of this package. No file is unpickled unless the user asks for
it: a pickle runs code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from parallelize.data import Array
from parallelize.models.program import Program
from parallelize.models.sources import archive, factory, hugging_face, timm_model, torch_file
from parallelize.models.sources.kinds import Kind, LoadOptions
from parallelize.models.sources.user_code import names_code
from passes.errors import ParallelizeError

__all__ = ["KINDS", "Kind", "LoadOptions", "load_program"]


def load_program(reference: str, options: LoadOptions, samples: Mapping[str, Array] | None = None) -> Program:
    """Load what a reference names and capture it.

    Args:
        reference: as in the module's docstring.
        options: weights and shapes for factories, permission to unpickle.
        samples: arrays of data, first axis samples; they tell the shapes where `options.inputs` does not.

    Raises:
        ParallelizeError: the reference names nothing that can be loaded and captured.
    """
    kind = next((kind for kind in KINDS if kind.matches(reference)), None)
    if kind is not None:
        return kind.load(reference, options, samples or {})
    hint = f"MODEL is one of {', '.join(kind.spelling for kind in KINDS)}."
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


def _has_suffix(*suffixes: str) -> Callable[[str], bool]:
    return lambda reference: Path(reference).suffix in suffixes


# The first kind that matches loads the reference, so what is told apart by more stands first.
KINDS: tuple[Kind, ...] = (
    Kind("a directory with config.json", hugging_face.is_saved_model, hugging_face.load),
    Kind("a directory of convert", archive.is_converted, archive.load_converted),
    Kind("timm:NAME", timm_model.names_model, timm_model.load),
    Kind("FILE.pt2", _has_suffix(".pt2"), archive.load),
    Kind("FILE.pt", _has_suffix(".pt", ".pth", ".ckpt", ".bin"), torch_file.load),
    Kind("package.module:factory or FILE.py:factory", names_code, factory.load),
)
