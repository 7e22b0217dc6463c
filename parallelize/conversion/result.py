"""What a conversion found, as one value: report.json is this value written, and is read back as it.

Every sentence, table and page about a conversion is made of a result alone, so that it can be made again from the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parallelize.baselines.networks import SERIAL, product_name
from parallelize.conversion.engine_result import BackendResult
from parallelize.conversion.pace import Pace
from parallelize.conversion.prefix_result import PrefixesWritten
from parallelize.files.typed_json import from_plain, to_plain
from parallelize.healing.heal import Ending
from parallelize.healing.options import HealOptions
from parallelize.healing.progress import Evaluation
from parallelize.machine.latency import Latency
from parallelize.machine.measured_on import Machine
from parallelize.measuring.written import Comparison
from parallelize.metrics.scores import PlainScores
from parallelize.refitting.records import LevelRefit
from passes.errors import ParallelizeError
from passes.plan import Plan, Refit
from passes.runner import PassRecord
from passes.stacks.terms import Refusal

SCHEMA = "parallelize-report/1"


@dataclass(frozen=True)
class DataUsed:
    """On what was measured: numbers of samples.

    Attributes:
        random: whether they are random numbers, which judge nothing.
        fit: that fitted.
        held_out: that chose.
        judge: that did neither.
        batch: that latency was measured at.
    """

    random: bool
    fit: int
    held_out: int
    judge: int
    batch: int


@dataclass(frozen=True)
class MetricUsed:
    """What the search minimised, and the largest error that it allowed, where it had a budget."""

    name: str
    meaning: str
    max_error: str | None


@dataclass(frozen=True)
class Intervals:
    """How intervals were made."""

    method: str
    confidence: float
    resamples: int


@dataclass(frozen=True)
class FoundStack:
    """A residual stack.

    Attributes:
        kinds: of its terms, with counts.
        behind: numbers of the stacks that it waits for.
    """

    name: str
    terms: int
    blocks: int
    layers: int
    kinds: str
    behind: tuple[int, ...]


@dataclass(frozen=True)
class MeasuredNetwork:
    """One network of the comparison.

    Attributes:
        depth_blocks: blocks on the longest path through its stacks.
        depth_terms: the same in terms.
        parameters: numbers that it stores.
        critical_gemms: matrix products that wait for each other.
        scores: on the samples that judge.
        errors: by the name of each metric that there is for these outputs.
        error_intervals: low and high.
        values: its own, by the name of each metric that has one.
        value_intervals: low and high.
        onnxruntime_ms: of one call at batch 1 on the CPU; None where no files were written.
        onnx_against_graph: how far its ONNX file is from it; None where there is none.
    """

    name: str
    depth_blocks: int
    depth_terms: int
    parameters: int
    critical_gemms: int
    scores: PlainScores
    errors: Mapping[str, float]
    error_intervals: Mapping[str, tuple[float, float]]
    values: Mapping[str, float]
    value_intervals: Mapping[str, tuple[float, float]]
    onnxruntime_ms: Latency | None
    onnx_against_graph: Comparison | None


@dataclass(frozen=True)
class Healing:
    """How a rewrite was healed; see `parallelize.healing.heal.Healed`."""

    options: HealOptions
    before: float
    after: float
    best_step: int
    steps: int
    seconds: float
    trained: int
    learning_rate: float
    device: str
    ending: Ending
    history: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Predicted:
    """Latencies on a GPU that is not here, which nobody measured.

    Attributes:
        gpu: its name.
        precision: of the networks there.
        error: median relative error of such predictions.
        error_of: what that error is of.
        milliseconds: of one call at batch 1, by the name of each network.
    """

    gpu: str
    precision: str
    error: float
    error_of: str
    milliseconds: Mapping[str, float]


@dataclass(frozen=True)
class Searched:
    """A schedule that the search measured as a whole network.

    Attributes:
        predicted: sum of the costs of its groups; not a number where it was not proposed by them.
        held_out: scores on the samples that chose.
    """

    depth_blocks: int
    predicted: float
    held_out: PlainScores


@dataclass(frozen=True)
class Result:
    """Everything that a conversion found.

    Attributes:
        model: where it came from.
        measured_on: where and when.
        warnings: what a reader of any number should know.
        data: on what was measured.
        device: that searched, refitted and judged; latencies are of the backend.
        metric: what was minimised.
        intervals: how they were made.
        refit_allowed: the strongest refit that a level could get.
        plan: the schedule.
        unscheduled: why nothing is scheduled; None where something is.
        deletion_plan: of the deletion to the same depth; None where nothing is scheduled.
        stacks: that were found.
        refused: residual adds that belong to no stack.
        networks: the serial one first.
        refit: what was chosen for each level.
        healing: None where none was asked for.
        passes: what each of them did.
        search: all schedules that were measured, deepest first; empty where none was searched.
        forward_passes: of the serial network over the calibration samples, that the search and its refits took.
        unfused_stacks: why groups of a stack, by its name, were left out of the search.
        backend: what was built.
        predicted: latencies on a target; None where none was named.
        pace: how fast it was asked to be and what it reached; None where nothing of the kind was asked for.
        prefixes: that were written; None where none were asked for.
    """

    model: str
    measured_on: Machine
    warnings: tuple[str, ...]
    data: DataUsed
    device: str
    metric: MetricUsed
    intervals: Intervals
    refit_allowed: Refit
    plan: Plan
    unscheduled: str | None
    deletion_plan: Plan | None
    stacks: tuple[FoundStack, ...]
    refused: tuple[Refusal, ...]
    networks: tuple[MeasuredNetwork, ...]
    refit: tuple[LevelRefit, ...]
    healing: Healing | None
    passes: tuple[PassRecord, ...]
    search: tuple[Searched, ...]
    forward_passes: float
    unfused_stacks: Mapping[str, str]
    backend: BackendResult
    predicted: Predicted | None = None
    pace: Pace | None = None
    prefixes: PrefixesWritten | None = None

    def __getitem__(self, name: str) -> MeasuredNetwork:
        return next(network for network in self.networks if network.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the networks, in order."""
        return tuple(network.name for network in self.networks)

    @property
    def serial(self) -> MeasuredNetwork:
        """The network as it was captured."""
        return self[SERIAL]

    @property
    def product(self) -> MeasuredNetwork:
        """The network that was written."""
        return self[product_name(self.names)]

    @property
    def is_timed(self) -> bool:
        """Whether latencies were measured, as they are of files."""
        return self.serial.onnxruntime_ms is not None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in report.json."""
        return {"schema": SCHEMA, **to_plain(self)}

    def to_json(self) -> str:
        """The content of report.json."""
        return json.dumps(self.as_dict(), indent=1) + "\n"

    @staticmethod
    def from_json(text: str, name: str = "report.json") -> Result:
        """Read a report.

        Args:
            text: the content of the file.
            name: what it is called in a message.

        Raises:
            ParallelizeError: not JSON, another schema, or a part that is missing or of another type.
        """
        hint = "Name the report.json of an output directory of `parallelize convert`."
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ParallelizeError(f"{name} is no JSON: {error}.", hint) from error
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA:
            raise ParallelizeError(f"{name} has the schema {schema!r}, not {SCHEMA!r}.", hint)
        return from_plain(Result, value, name)
