"""How to convert.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from parallelize.backends.choice import AUTO, choices, where_built
from parallelize.backends.tensorrt.choices import Precision
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.conversion.prefix_options import PrefixOptions
from parallelize.files.plan import read_plan
from parallelize.healing.options import HealOptions
from parallelize.measuring.options import MeasureOptions
from parallelize.metrics.budget import Budget
from parallelize.planning.options import DeviceOptions, SearchOptions
from parallelize.predicting.options import TargetOptions
from parallelize.terminal.option_field import Spelling, option, options_of
from passes.plan import Plan


@dataclass(frozen=True)
class EngineOptions:
    """What a conversion builds beside the ONNX file.

    Attributes:
        backend: "auto", "onnxruntime" for no engine, "tensorrt-rtx" or "tensorrt".
        precision: of the model that is exported; inputs and outputs keep their dtypes. None is that of the model.
        build: how the engine is built; its precision is the one above.
    """

    backend: str = option(
        AUTO, f"What model.onnx is compiled with: {where_built()}; auto takes what runs here.", choices=choices()
    )
    precision: Precision | None = option(
        None,
        "Of model.onnx and the engine; inputs and outputs keep their dtypes, norms stay in fp32 (default: the model's"
        " own).",
    )
    build: BuildOptions = options_of(BuildOptions, only=("shapes", "compute_capabilities"))

    @property
    def computes_in(self) -> Precision:
        """The precision; fp32 where none was given."""
        return self.precision or "fp32"

    def of_model(self, precision: Precision) -> EngineOptions:
        """The options for a model that computes in this precision."""
        return replace(self, precision=self.precision or precision)


@dataclass(frozen=True)
class ConvertOptions(TargetOptions, SearchOptions, MeasureOptions, DeviceOptions, PrefixOptions):
    """How to convert. A plan and a depth stand alone, an error and how fast to be go together.

    Attributes:
        plan: replay this plan.
        depth: the best schedule of at most so many blocks.
        max_error: the shallowest schedule within this error of `metric`: a number, or a percentage such as "1%".
        min_speedup: the deepest schedule that is so many times as fast as the serial network: a number above 1. It is
            timed on the engine's backend, or predicted for the target where one is named.
        max_latency: the deepest schedule that takes so long there at most: milliseconds, or a string such as "1.5ms".
            With `max_error` the shallowest schedule within it is taken, which must be fast enough.
        heal: heal the rewrite by gradient steps; None does not.
        branches: write the network before its branches become wide operations as well, which is as large as model.pt2.
        engine: backend, precision and how to build an engine.
    """

    plan: Plan | None = option(
        None,
        "Replay a plan.json.",
        metavar="FILE",
        spelling=Spelling(Path | None, read=lambda path: None if path is None else read_plan(path)),
    )
    depth: int | None = option(None, "The best schedule of at most N blocks.", metavar="N", least=1)
    max_error: Budget | float | str | None = option(
        None,
        "The shallowest schedule whose --metric is at most E on held-out data (default: 0.02), such as 0.02 or 1%; a"
        " percentage is one of the serial value.",
        metavar="E",
        spelling=Spelling(str | None),
    )
    min_speedup: float | str | None = option(
        None,
        "The deepest, and so most accurate, schedule that is X times as fast as the serial network: timed in turn on"
        " --backend here, or predicted for --target; beside --max-error, the shallowest within both.",
        metavar="X",
        spelling=Spelling(str | None),
    )
    max_latency: float | str | None = option(
        None,
        "The same for a latency of T at most, such as 1.5ms or 800us; a plain number is milliseconds.",
        metavar="T",
        spelling=Spelling(str | None),
    )
    heal: HealOptions | None = option(
        None,
        "Heal the rewrite as well, as `parallelize heal` does by default.",
        spelling=Spelling(bool, default=False, read=lambda wanted: HealOptions() if wanted else None),
    )
    branches: bool = option(
        False, "Write branches.pt2 too, whose branches several processes of `parallelize run` can share."
    )
    engine: EngineOptions = options_of(EngineOptions)
