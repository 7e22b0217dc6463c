"""How to build an engine, in the words of trtexec and Polygraphy; what a library cannot do is refused beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parallelize.backends.tensorrt.choices import HardwareCompatibility, Precision
from parallelize.backends.tensorrt.library import Library, capabilities
from parallelize.backends.tensorrt.profiles import ShapeOptions
from parallelize.terminal.option_field import Spelling, option, options_of
from passes.errors import ParallelizeError

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16")
STORED = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_LEVELS = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}
_PORTABLE_WITHOUT = "7.5"  # of TensorRT for RTX: Turing must be asked for


@dataclass(frozen=True)
class BuildOptions:
    """What the builder is told.

    Attributes:
        precision: what the products of the ONNX file must be in; None takes the file as it is. "tf32" is float32 whose
            products may be rounded to TensorFloat-32; everywhere else that is off.
        shapes: shapes that the engine takes.
        workspace: MiB of scratch memory that a layer may use; None is all.
        optimization_level: 0 to 5; None is the library's.
        max_aux_streams: streams beside the main one; 0 forces one stream, None leaves it to the library.
        timing_cache: file that timings are taken from and kept in ("tensorrt" only).
        version_compatible: the engine also runs on later versions ("tensorrt" only).
        hardware_compatibility: GPUs that the engine runs on beside this one ("tensorrt" only).
        compute_capabilities: GPUs that it is for, such as "8.9" ("tensorrt-rtx" only); none are all portable ones.
    """

    precision: Precision | None = option(
        None,
        "What the products must run in: the ONNX must have it and the engine is checked for it; tf32 lets products of"
        " float32 be rounded (default: as the ONNX says, without tf32).",
    )
    shapes: ShapeOptions = options_of(ShapeOptions)
    workspace: int | None = option(None, "MiB of scratch memory for a layer (default: all).", least=1)
    optimization_level: int | None = option(
        None, "How long to search for tactics.", least=0, most=5, name="--builder-optimization-level"
    )
    max_aux_streams: int | None = option(None, "Streams beside the main one; 0 is one stream only.", least=0)
    timing_cache: Path | None = option(None, "Take timings from FILE and keep them there (tensorrt).", metavar="FILE")
    version_compatible: bool = option(False, "Run on later versions too (tensorrt).")
    hardware_compatibility: HardwareCompatibility = option(
        "none", "Run on other GPUs too (tensorrt).", name="--hardware-compatibility-level"
    )
    compute_capabilities: tuple[str, ...] = option(
        (),
        "GPU that the engine is for, such as 8.9; repeat for more (tensorrt-rtx; default: all portable ones).",
        metavar="X.Y",
        name="--compute-capability",
        spelling=Spelling(list[str] | None, read=lambda given: tuple(given or ())),
    )

    def flags(self) -> dict[str, Any]:
        """What the sidecar keeps beside precision, shapes and targets."""
        return {
            "tf32": self.precision == "tf32",
            "workspace_mib": self.workspace,
            "optimization_level": self.optimization_level,
            "max_aux_streams": self.max_aux_streams,
            "version_compatible": self.version_compatible,
            "hardware_compatibility": self.hardware_compatibility,
        }

    def check(self, library: Library) -> None:
        """Refuse what this library cannot do.

        Raises:
            ParallelizeError: naming the option.
        """
        if not library.names_targets:
            if self.compute_capabilities:
                raise ParallelizeError(
                    "--compute-capability is for tensorrt-rtx: tensorrt builds for the GPU that it runs on.",
                    "Leave it out, or use --backend tensorrt-rtx.",
                )
            return
        asked = {
            "--timing-cache": self.timing_cache is not None,
            "--version-compatible": self.version_compatible,
            "--hardware-compatibility-level": self.hardware_compatibility != "none",
        }
        for name, given in asked.items():
            if given:
                raise ParallelizeError(
                    f"{name} is for tensorrt: tensorrt-rtx builds without a GPU and has no use for it.",
                    "Leave it out, or use --backend tensorrt on a machine with a GPU.",
                )
        known = capabilities(library)
        for capability in self.compute_capabilities:
            if capability not in known:
                raise ParallelizeError(
                    f"{library.title} has no kernels for compute capability {capability}.",
                    f"It builds for {', '.join(known)}.",
                )

    def targets(self, library: Library) -> tuple[str, ...]:
        """Compute capabilities that an engine of a library with named targets is for."""
        portable = tuple(c for c in capabilities(library) if c != _PORTABLE_WITHOUT)
        return self.compute_capabilities or portable


def configure(library: Library, config: Any, options: BuildOptions) -> None:
    """Tell the builder, by names that every supported library has."""
    module = library.module
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if options.precision == "tf32":
        config.set_flag(module.BuilderFlag.TF32)
    else:
        config.clear_flag(module.BuilderFlag.TF32)
    if options.workspace is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
    if library.names_targets:
        _target(module, config, options.targets(library))
        return
    if options.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        level = getattr(module.HardwareCompatibilityLevel, _LEVELS[options.hardware_compatibility])
        config.hardware_compatibility_level = level


def _target(module: Any, config: Any, targets: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(targets)
    for number, capability in enumerate(targets):
        value = getattr(module.ComputeCapability, f"SM{capability.replace('.', '')}")
        if not config.set_compute_capability(value, number):
            raise ParallelizeError(
                f"The engine cannot be built for compute capability {capability} beside {', '.join(targets)}.",
                "Build one engine for each.",
            )
