"""Turn the depth of neural networks into width: fewer operations wait for each other, at a measured cost in accuracy.

    import parallelize
    options = parallelize.ConvertOptions(depth=3)
    result = parallelize.convert("model.pt", "out", inputs="calibration.npz", options=options)

The package imports nothing heavy by itself; names are loaded when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallelize.backends.tensorrt.build import build
    from parallelize.backends.tensorrt.engine import Engine
    from parallelize.backends.tensorrt.options import BuildOptions
    from parallelize.conversion.convert import Conversion, convert
    from parallelize.conversion.loading.interface import InputError
    from parallelize.conversion.loading.load import load
    from parallelize.conversion.loading.loaded import Loaded
    from parallelize.conversion.options import ConvertOptions, EngineOptions
    from parallelize.conversion.rewrite import Rewritten, rewrite
    from parallelize.exploring.explore import explore, plan
    from parallelize.exploring.options import PlanOptions
    from parallelize.healing.heal import Healed, heal
    from parallelize.healing.options import HealOptions
    from parallelize.inspecting.looking import draw, inspect
    from parallelize.measuring.bench import BenchResult, bench
    from parallelize.measuring.compare import CompareResult, compare
    from parallelize.measuring.options import BenchOptions, CompareOptions
    from parallelize.measuring.run import RunResult, run
    from parallelize.measuring.run_options import RunFileOptions
    from parallelize.models.capture import capture
    from parallelize.models.para_former import load_para_former
    from parallelize.models.program import Program
    from parallelize.models.source import Source
    from parallelize.planning.options import PlannerOptions
    from parallelize.predicting.profile import profile_gpu
    from parallelize.predicting.target import Target, load_target
    from parallelize.refitting.records import Refitted
    from parallelize.refitting.refit import refit
    from passes.errors import ParallelizeError
    from passes.plan import Plan
    from passes.stacks.find import find_stacks

__version__ = "0.1.0"
__all__ = [
    "BenchOptions",
    "BenchResult",
    "BuildOptions",
    "CompareOptions",
    "CompareResult",
    "Conversion",
    "ConvertOptions",
    "Engine",
    "EngineOptions",
    "HealOptions",
    "Healed",
    "InputError",
    "Loaded",
    "ParallelizeError",
    "Plan",
    "PlanOptions",
    "PlannerOptions",
    "Program",
    "Refitted",
    "Rewritten",
    "RunFileOptions",
    "RunResult",
    "Source",
    "Target",
    "__version__",
    "bench",
    "build",
    "capture",
    "compare",
    "convert",
    "draw",
    "explore",
    "find_stacks",
    "heal",
    "inspect",
    "load",
    "load_para_former",
    "load_target",
    "plan",
    "profile_gpu",
    "refit",
    "rewrite",
    "run",
]

_HOMES = {
    "BenchOptions": "parallelize.measuring.options",
    "BenchResult": "parallelize.measuring.bench",
    "BuildOptions": "parallelize.backends.tensorrt.options",
    "CompareOptions": "parallelize.measuring.options",
    "CompareResult": "parallelize.measuring.compare",
    "Conversion": "parallelize.conversion.convert",
    "ConvertOptions": "parallelize.conversion.options",
    "Engine": "parallelize.backends.tensorrt.engine",
    "EngineOptions": "parallelize.conversion.options",
    "HealOptions": "parallelize.healing.options",
    "Healed": "parallelize.healing.heal",
    "InputError": "parallelize.conversion.loading.interface",
    "Loaded": "parallelize.conversion.loading.loaded",
    "ParallelizeError": "passes.errors",
    "Plan": "passes.plan",
    "PlanOptions": "parallelize.exploring.options",
    "PlannerOptions": "parallelize.planning.options",
    "Program": "parallelize.models.program",
    "RunFileOptions": "parallelize.measuring.run_options",
    "RunResult": "parallelize.measuring.run",
    "Rewritten": "parallelize.conversion.rewrite",
    "Source": "parallelize.models.source",
    "Target": "parallelize.predicting.target",
    "bench": "parallelize.measuring.bench",
    "build": "parallelize.backends.tensorrt.build",
    "capture": "parallelize.models.capture",
    "compare": "parallelize.measuring.compare",
    "draw": "parallelize.inspecting.looking",
    "inspect": "parallelize.inspecting.looking",
    "Refitted": "parallelize.refitting.records",
    "refit": "parallelize.refitting.refit",
    "convert": "parallelize.conversion.convert",
    "explore": "parallelize.exploring.explore",
    "plan": "parallelize.exploring.explore",
    "find_stacks": "passes.stacks.find",
    "heal": "parallelize.healing.heal",
    "load": "parallelize.conversion.loading.load",
    "load_para_former": "parallelize.models.para_former",
    "load_target": "parallelize.predicting.target",
    "profile_gpu": "parallelize.predicting.profile",
    "run": "parallelize.measuring.run",
    "rewrite": "parallelize.conversion.rewrite",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = __import__(_HOMES[name], globals(), fromlist=[name])  # told apart from the user's imports by its globals
    return getattr(home, name)
