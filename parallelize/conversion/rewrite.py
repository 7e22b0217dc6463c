"""`parallelize.rewrite`: a module becomes a module, in memory, by the same way as `convert` and without its files.

    rewritten = parallelize.rewrite(model, loader, depth=3)
    logits = rewritten.module(images)
    print(rewritten)                            the table: every network, scored on samples that decided nothing

What needs files is not there: no ONNX and no latency of it, no engine, no state to go on from. A goal of speed is timed
on files that are gone when it is reached.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from parallelize.conversion.engines import Built
from parallelize.conversion.evidence import Evidence
from parallelize.conversion.loading.origin import Origin
from parallelize.conversion.loading.program import LoadedProgram
from parallelize.conversion.making import Asked, make
from parallelize.conversion.options import ConvertOptions
from parallelize.conversion.prefix_options import asked_prefixes
from parallelize.conversion.result import Result
from parallelize.conversion.table import table
from parallelize.export.precision import PrecisionRecord
from parallelize.files.plan import plan_of
from parallelize.healing.options import HealOptions
from parallelize.machine.device import CPU
from parallelize.machine.torch_settings import whole_float32
from parallelize.metrics import Budget
from parallelize.models.placement import placed_module
from parallelize.models.program import Program
from parallelize.models.source import Source
from parallelize.terminal.progress import Report
from passes.errors import ParallelizeError
from passes.plan import Plan

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from parallelize.models.source import DataBeside, Inputs, Model

_WIDTH = 120  # of the table where no terminal says


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A rewritten model and what was measured of it; printed it is the table of all networks.

    Attributes:
        module: the network, to be called as the original was; a module as `parallelize.load` gives one.
        plan: what it was rewritten by.
        report: what was found, as in report.json of a conversion.
    """

    module: LoadedProgram
    plan: Plan
    report: Result

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The error against the serial network of each network by its name, in each metric by its name."""
        return {network.name: dict(network.errors) for network in self.report.networks}

    def table(self) -> Table:
        """The networks as rows, for rich to print."""
        return table(self.report)

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=_WIDTH).print(self.table())
        return text.getvalue()


@whole_float32()
def rewrite(
    model: Model | Source,
    inputs: Inputs | None = None,
    *,
    depth: int | None = None,
    max_error: Budget | float | str | None = None,
    plan: Plan | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    heal: HealOptions | None = None,
    options: ConvertOptions | None = None,
    report: Report = lambda _what, _share: None,
    **data: Unpack[DataBeside],
) -> Rewritten:
    """Rewrite a model's depth into width; nothing is written.

    Args:
        model: a module in eval mode, a captured program, or a reference as on the command line; or a
            `parallelize.Source`, which holds the data too. It is not changed, and no weight is shared with it.
        inputs: calibration samples: arrays or tensors by the names of the inputs, batches of them, a DataLoader, a
            dataset of Hugging Face, or the path of an .npz.
        depth: the best schedule of at most so many blocks.
        max_error: the shallowest schedule within this error on held-out samples, such as 0.02 or "1%".
        plan: replay this plan, its path, or what stands in it.
        heal: heal the rewrite by gradient steps.
        options: everything else, such as the metric and the strength of the refit.
        report: told what is being done.
        data: what a `parallelize.Source` has beside model and inputs.

    Returns:
        The network on the device that the module is on, the CPU where it is no module, and what was measured.

    Raises:
        ParallelizeError: with one sentence and a hint.
    """
    source = Source.of(model, **data) if inputs is None else Source.of(model, inputs=inputs, **data)
    given: dict[str, Any] = {"depth": depth, "max_error": max_error, "heal": heal}
    given["plan"] = None if plan is None else plan_of(plan)
    wanted = {name: value for name, value in given.items() if value is not None}
    options = replace(options or ConvertOptions(), **wanted)
    _refuse_files(options)
    made = make(Asked.of(options).begin(source, report), report)
    variants = made.variants
    built = Built("torch", "the network stays in memory", PrecisionRecord("fp32"))
    result = Evidence(made.job, made.schedule, variants, made.measured, built).result()
    module = _own(variants.product.program, _device(source.model), result)
    return Rewritten(module, made.schedule.plan, result)


def _refuse_files(options: ConvertOptions) -> None:
    """Refuse what is an option of files."""
    if asked_prefixes(options) is not None:
        raise ParallelizeError("Prefixes are files of a conversion, and a rewrite in memory has none.", "Use convert.")
    if replace(options.engine, backend="auto") != ConvertOptions().engine:
        raise ParallelizeError(
            "A precision or shapes are of files and engines, and a rewrite in memory has none.", "Use convert."
        )


def _own(program: Program, device: torch.device, report: Result) -> LoadedProgram:
    """The network with weights of its own: training it leaves the original as it was."""
    return LoadedProgram(
        replace(program, module=placed_module(program.module, device), original=None),
        Origin(program.origin, report=report),
        device,
    )


def _device(model: object) -> torch.device:
    """Where a module is, as far as one device tells."""
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return next((tensor.device for tensor in tensors), CPU)
