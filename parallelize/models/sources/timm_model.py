"""`timm:NAME`: a model of timm by its name there. Its weights are random unless `--weights` gives them."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import ModuleType

import torch
from torch import nn

from parallelize.data import Array
from parallelize.models.program import Program
from parallelize.models.source import LoadOptions
from parallelize.models.sources.kinds import Kind
from parallelize.models.sources.shapes import capture_known
from parallelize.models.sources.user_code import described
from parallelize.models.sources.weights import load_weights
from passes.errors import EnvironmentLackError, ParallelizeError

_PREFIX = "timm:"
_INSTALL = 'Install it with `pip install "parallelize[timm]"`.'


def names_model(reference: str) -> bool:
    """Whether the reference starts with `timm:`."""
    return reference.startswith(_PREFIX)


def load(reference: str, options: LoadOptions, samples: Mapping[str, Array]) -> Program:
    """Build the model without its pretrained weights, which would have to be downloaded, and capture it in eval mode.

    Raises:
        EnvironmentLackError: timm, or the torchvision that it needs, is absent or broken.
        ParallelizeError: timm has no such model, the weights do not fit, or the model cannot be captured.
    """
    timm = _import_timm(reference)
    name = reference.removeprefix(_PREFIX)
    if not timm.is_model(name):
        raise ParallelizeError(f"timm has no model {name!r}.", _nearest(name, timm.list_models()))
    module = _created(timm, name)
    load_weights(module, options, reference)
    return capture_known(module.eval(), _example(module), reference, options, samples)


def _import_timm(reference: str) -> ModuleType:
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name == "timm":
            raise EnvironmentLackError(f"{reference} cannot be built: timm is not installed.", _INSTALL) from error
        raise _broken(
            reference, f"it needs {error.name}, which is not installed", error.name == "torchvision"
        ) from error
    except Exception as error:  # a torchvision for another PyTorch raises whatever fails first in it
        raise _broken(reference, described(error), "torchvision" in str(error)) from error
    return timm


def _broken(reference: str, why: str, is_torchvision: bool) -> EnvironmentLackError:
    return EnvironmentLackError(
        f"{reference} cannot be built: timm does not import ({why}).",
        _torchvision_hint() if is_torchvision else 'Install it again with `pip install --upgrade "parallelize[timm]"`.',
    )


def _torchvision_hint() -> str:
    """What to install: PyPI has torchvision for CUDA, which does not load beside a PyTorch for the CPU.

    Tried: torchvision 0.28.0 and 0.29.1 of PyPI beside torch 2.13.0+cpu, "operator torchvision::nms does not exist".
    """
    version, _, build = torch.__version__.partition("+")
    if torch.version.cuda is not None or build != "cpu":
        return f"Install the torchvision made for this PyTorch with `pip install torchvision torch=={version}`."
    return (
        "Install the torchvision made for this PyTorch of the CPU, which PyPI does not have:"
        f" `pip install torchvision torch=={version} --index-url https://download.pytorch.org/whl/cpu`."
    )


def _nearest(name: str, known: list[str]) -> str:
    """A hint with names that go on as this one does, else with names spelled like it."""
    bare = name.partition(".")[0]
    near = [other for other in known if bare and other.startswith(bare)] or difflib.get_close_matches(bare, known)
    return f"Did you mean {', '.join(near[:3])}?" if near else "`timm.list_models()` gives their names."


def _created(timm: ModuleType, name: str) -> nn.Module:
    try:
        module = timm.create_model(name, pretrained=False)
    except Exception as error:  # a tag that the model has not, or whatever its own code raises
        raise ParallelizeError(
            f"timm cannot build {name!r} ({described(error)}).", "Leave out the tag after the point."
        ) from error
    assert isinstance(module, nn.Module)
    return module


def _example(module: nn.Module) -> torch.Tensor | None:
    """Zeros of the size that the model was made for, (2, channels, height, width)."""
    size = (getattr(module, "default_cfg", None) or {}).get("input_size")
    return None if size is None else torch.zeros(2, *size)


KINDS = (Kind("timm:NAME", names_model, load, place=30),)
