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
    from parallelize.benchmark import BenchOptions, BenchResult, bench
    from parallelize.capturing import capture
    from parallelize.comparison import CompareOptions, CompareResult, compare
    from parallelize.conversion import Conversion, ConvertOptions, convert
    from parallelize.engines import EngineOptions
    from parallelize.heal_options import HealOptions
    from parallelize.healing import Healed, heal
    from parallelize.planning.exploring import PlanOptions, explore
    from parallelize.planning.planner import PlannerOptions
    from parallelize.preparation import Source
    from parallelize.program import Program
    from passes.errors import ParallelizeError
    from passes.plan import Plan
    from passes.stacks import find_stacks

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
    "ParallelizeError",
    "Plan",
    "PlanOptions",
    "PlannerOptions",
    "Program",
    "Source",
    "__version__",
    "bench",
    "build",
    "capture",
    "compare",
    "convert",
    "explore",
    "find_stacks",
    "heal",
]

_HOMES = {
    "BenchOptions": "parallelize.benchmark",
    "BenchResult": "parallelize.benchmark",
    "BuildOptions": "parallelize.backends.tensorrt.options",
    "CompareOptions": "parallelize.comparison",
    "CompareResult": "parallelize.comparison",
    "Conversion": "parallelize.conversion",
    "ConvertOptions": "parallelize.conversion",
    "Engine": "parallelize.backends.tensorrt.engine",
    "EngineOptions": "parallelize.engines",
    "HealOptions": "parallelize.heal_options",
    "Healed": "parallelize.healing",
    "ParallelizeError": "passes.errors",
    "Plan": "passes.plan",
    "PlanOptions": "parallelize.planning.exploring",
    "PlannerOptions": "parallelize.planning.planner",
    "Program": "parallelize.program",
    "Source": "parallelize.preparation",
    "bench": "parallelize.benchmark",
    "build": "parallelize.backends.tensorrt.build",
    "capture": "parallelize.capturing",
    "compare": "parallelize.comparison",
    "convert": "parallelize.conversion",
    "explore": "parallelize.planning.exploring",
    "find_stacks": "passes.stacks",
    "heal": "parallelize.healing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = __import__(_HOMES[name], globals(), fromlist=[name])  # told apart from the user's imports by its globals
    return getattr(home, name)
