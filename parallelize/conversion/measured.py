"""What is measured of every network of a conversion: scores, its ONNX file against its graph, and latency.

    made -> scored -> written as ONNX -> compared with its graph -> let go                one network after another
    all files timed in turn

Where no files are wanted, networks are scored and nothing else. Otherwise, what they have in common is written once,
with the serial one, and in the end the product as a file of its own, as are the prefixes that are asked for. Scores are
of samples that neither fitted nor chose the plan. Latencies are measured in turn in one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor

from parallelize.backends.backend import ONNX, PROGRAM
from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.baselines.networks import SERIAL, Networks, Variants, taken
from parallelize.baselines.prefixes import EVERY, last_answers
from parallelize.conversion.job import Job
from parallelize.export.onnx import write_onnx
from parallelize.export.weight_files import SharedWeights, beside, gathered
from parallelize.machine.device import CPU
from parallelize.machine.latency import Latency
from parallelize.machine.mapped import let_go
from parallelize.measuring.onnx_latency import onnx_latencies
from parallelize.measuring.written import Comparison, compared
from parallelize.metrics import Judge, Scores
from parallelize.models.network import Network, NetworkFacts
from parallelize.models.placement import placed
from parallelize.models.program import Program
from parallelize.models.saving import save_program
from parallelize.terminal.progress import Report

SCRATCH, SERIAL_ONNX = "scratch", "serial.onnx"  # beside the products, removed in the end


@dataclass(frozen=True)
class Measured:
    """What was measured of every network, by its name.

    Attributes:
        scores: on the samples that judge.
        latencies: of a call at batch 1; empty where no files were wanted.
        comparisons: of its ONNX file with its graph; empty where no files were wanted.
        predicted: milliseconds on a target; empty where none is named.
        reloaded: whether each network was loaded anew for each of its turns of timing.
    """

    scores: Mapping[str, Scores]
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    predicted: Mapping[str, float] = field(default_factory=dict)
    reloaded: bool = False


@dataclass(frozen=True, eq=False)
class OnnxFiles:
    """The ONNX files of a conversion.

    Attributes:
        directory: where model.onnx of the product stays; the other files are removed in the end.
        shared: weights of the serial network, which is written there already, for other files beside it.
    """

    directory: Path
    shared: SharedWeights

    @property
    def scratch(self) -> Path:
        """Where files lie meanwhile."""
        return self.directory / SCRATCH


def write_serial(program: Program, directory: Path, report: Report) -> OnnxFiles:
    """Write the network as it is before anything takes time: what has no ONNX form has none after a search either.

    Raises:
        ParallelizeError: an operator has no ONNX form, or ONNX Runtime refuses the file.
    """
    report("writing the serial network as ONNX", None)
    path, shared = directory / SCRATCH / SERIAL_ONNX, SharedWeights()
    path.parent.mkdir()
    write_onnx(program, path, shared=shared)
    let_go()
    OnnxRuntime(path, 1)
    return OnnxFiles(directory, shared)


def measure(
    job: Job,
    networks: Networks,
    files: OnnxFiles | None,
    report: Report,
    written: Mapping[str, str] | None = None,
) -> tuple[Variants[NetworkFacts], Measured]:
    """Score each network when it is made, write it as ONNX and compare it with its graph; time all in the end.

    Args:
        job: what is converted.
        networks: what to measure; of each the facts stay.
        files: as `write_serial` has begun them; None only scores.
        report: told what is being done.
        written: what files of further networks are called that stay, without their suffixes, by the networks' names.

    Raises:
        CheckError: an ONNX file does not compute what its graph computes.
    """
    report("judging", None)
    written = written or {}
    if files is None:
        scoring = _Scoring(job, report)
        return taken(networks, scoring.take), scoring.measured()
    measuring = _Writing(job, files, report, {name: files.directory / stem for name, stem in written.items()})
    variants = taken(networks, measuring.take)
    measured = measuring.measured()
    kept = {measuring.files[variants.product.name]: files.directory / ONNX.product}
    kept |= {measuring.files[name]: files.directory / f"{stem}{ONNX.suffix}" for name, stem in written.items()}
    needed = {beside(Path(SERIAL_ONNX)), *(name for path in kept for name in (path.name, beside(path)))}
    _remove(path for path in files.scratch.iterdir() if path.name not in needed)
    for scratch, path in kept.items():
        gathered(scratch, path)
    _remove(files.scratch.iterdir())
    files.scratch.rmdir()
    return variants, measured


def _remove(files: Iterable[Path]) -> None:
    for path in list(files):
        path.unlink()


class _Scoring:
    """Takes one network after another and keeps scores."""

    def __init__(self, job: Job, report: Report) -> None:
        self.job, self.report = job, report
        self.samples = job.prepared.data.judge
        self.scores: dict[str, Scores] = {}
        self.predicted: dict[str, float] = {}
        self._judge = Judge(job.prepared.program.module, self.samples, job.metric)

    def take(self, network: Network) -> NetworkFacts:
        """Score a network, and predict its latency on a target."""
        name, target = network.name, self.job.asked_for
        self.report(f"judging '{name}'", None)
        answers = network.module if name != EVERY else last_answers(network.program, self.job.prepared.program)
        self.scores[name] = self._judge.serial if name == SERIAL else self._judge.score(answers)
        if target is not None:
            self.predicted[name] = target.milliseconds(network.program, self.samples)
        return NetworkFacts.of(network)

    def measured(self) -> Measured:
        """What was measured of all of them."""
        return Measured(self.scores, predicted=self.predicted)


class _Writing(_Scoring):
    """Writes each of them as well, compares files with graphs, and times them."""

    def __init__(self, job: Job, files: OnnxFiles, report: Report, written: Mapping[str, Path]) -> None:
        super().__init__(job, report)
        self.written = written
        self.files: dict[str, Path] = {}
        self._place = files
        self._comparisons: dict[str, Comparison] = {}

    def take(self, network: Network) -> NetworkFacts:
        """Measure all of a network but its latency."""
        facts, name = super().take(network), network.name
        self.report(f"writing and checking the ONNX of '{name}'", None)
        self.files[name] = self._written(network)
        self._comparisons[name] = compared(
            f"The ONNX of '{name}'",
            partial(self._run, name),
            network.program,
            self.samples,
            like=self.job.prepared.program.module if name != EVERY else None,
        )
        if name in self.written:
            path = self.written[name]
            save_program(placed(network.program, CPU), path.with_name(f"{path.name}{PROGRAM.suffix}"))
        return facts

    def _written(self, network: Network) -> Path:
        """The ONNX file of a network; that of the serial one has been written."""
        if network.program.module is self.job.prepared.program.module:
            return self._place.scratch / SERIAL_ONNX
        path = self._place.scratch / f"{len(self.files)}{ONNX.suffix}"
        write_onnx(network.program, path, shared=self._place.shared)
        return path

    def _opened(self, name: str) -> OnnxRuntime:
        return OnnxRuntime(self.files[name], self.job.options.threads)

    def _run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of a file, which is open meanwhile and no longer."""
        let_go()
        return self._opened(name)(inputs)

    def measured(self) -> Measured:
        """Time all files in turn."""
        self.report("timing", None)
        options = self.job.options
        times, reloaded = onnx_latencies(self.files, self.samples, options.rounds, options.threads)
        return Measured(self.scores, times, self._comparisons, self.predicted, reloaded)
