"""What of the options of an engine is refused before anything takes time."""

from __future__ import annotations

import torch

from parallelize.backends.backend import Backend
from parallelize.backends.choice import Choice, builders, choose_backend
from parallelize.backends.tensorrt.choices import Precision
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import ShapeOptions, choose_profiles
from parallelize.conversion.goal import Faster, Goal
from parallelize.conversion.options import EngineOptions
from parallelize.models.program import Program
from passes.errors import EnvironmentLackError, ParallelizeError
from passes.graph.dataflow import tensor_value
from passes.graph.operators import gemms
from passes.precision.cast_precision import Precision as CastPrecisionName

HALF: dict[str, CastPrecisionName] = {"fp16": "fp16", "bf16": "bf16"}
_HALF_DTYPES = (torch.float16, torch.bfloat16)


def settle(options: EngineOptions) -> Choice[Backend]:
    """The backend and why it is taken, before anything takes time.

    Raises:
        EnvironmentLackError: the library that was asked for is not installed, or needs a GPU that is not here.
        ParallelizeError: an option that is for engines only, without one, or one that the library does not have.
    """
    choice = choose_backend(options.backend)
    if choice.builder is not None:
        choice.builder.require(options.build)
        return choice
    taken = f"but the backend is {choice.backend.name}: {choice.why}."
    hint = f"Add {' or '.join(f'--backend {builder.name}' for builder in builders())}, or leave {{}} out."
    if options.build != BuildOptions():
        raise ParallelizeError(f"Shapes and other options of an engine were given, {taken}", hint.format("them"))
    if options.computes_in == "tf32":
        raise ParallelizeError(f"tf32 is how an engine computes, not how a model is stored, {taken}", hint.format("it"))
    return choice


def require_timing(goal: Goal, choice: Choice[Backend], target: str | None) -> None:
    """Refuse a goal of latency on a backend that does not run here, where no target is named.

    Raises:
        EnvironmentLackError: naming the backend.
    """
    if target is not None or not isinstance(goal, Faster) or choice.builder is None:
        return
    if choice.builder.runs_here() is None:
        raise EnvironmentLackError(
            f"How fast a network is on {choice.backend.name} is measured on a GPU that runs its engines, and there is"
            " none here.",
            "Use --backend onnxruntime to time on the CPU, name a GPU with --target, or convert where there is one.",
        )


def check_timing(goal: Goal, options: EngineOptions, own: Precision, choice: Choice[Backend]) -> None:
    """Refuse a goal of latency in a precision that networks are not timed in.

    Raises:
        ParallelizeError: ONNX Runtime times networks in the precision of the model, and another was asked for.
    """
    if isinstance(goal, Faster) and choice.builder is None and options.computes_in != own:
        raise ParallelizeError(
            f"ONNX Runtime times networks in {own}, and {options.computes_in} was asked for.",
            "Leave out --precision, and cast the plan that is found with --plan.",
        )


def check_shapes(program: Program, options: EngineOptions) -> None:
    """Refuse shapes that do not fit the model's inputs, which a rewrite leaves as they are.

    Raises:
        ParallelizeError: naming the shape.
    """
    if options.build.shapes != ShapeOptions():
        choose_profiles(program.inputs, options.build.shapes)


def check_precision(program: Program, options: EngineOptions, choice: Choice[Backend]) -> None:
    """Refuse an engine in fp32 of a model that computes in half precision, before the search.

    Raises:
        ParallelizeError: naming the dtype.
    """
    if choice.builder is None or options.computes_in in HALF:
        return
    for node in program.module.graph.nodes:
        value = tensor_value(node)
        if gemms(node) and value is not None and value.dtype in _HALF_DTYPES:
            spelled = "bf16" if value.dtype == torch.bfloat16 else "fp16"
            raise ParallelizeError(
                f"{program.origin} computes in {spelled} already, so its engine cannot be {options.computes_in}.",
                f"Use --precision {spelled}, or --backend onnxruntime for no engine.",
            )
