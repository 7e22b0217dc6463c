"""`package.module:factory`, `FILE.py:factory`: a callable without arguments that returns a module, or a module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from parallelize.data import Array
from parallelize.models.program import Program
from parallelize.models.source import LoadOptions
from parallelize.models.sources.kinds import Kind
from parallelize.models.sources.shapes import capture_known
from parallelize.models.sources.user_code import at_home, called, imported, names_code
from parallelize.models.sources.weights import load_weights
from passes.errors import ParallelizeError


def load(reference: str, options: LoadOptions, samples: Mapping[str, Array]) -> Program:
    """Import, call, load `--weights` where they are given, and capture in eval mode."""
    with at_home(reference):
        source, factory = imported(reference)
        module = factory if isinstance(factory, nn.Module) else called(factory, reference)
        if not isinstance(module, nn.Module):
            raise ParallelizeError(
                f"{reference} gives a {type(module).__name__}, not a model.", "It must return a torch.nn.Module."
            )
        load_weights(module, options, reference)
        examples = getattr(module, "example_inputs", None)
        examples = getattr(source, "example_inputs", None) if examples is None else examples
        return capture_known(module.eval(), examples, reference, options, samples)


KINDS = (Kind("package.module:factory or FILE.py:factory", names_code, load, place=90),)
