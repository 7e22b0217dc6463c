"""What is measured of every network of a conversion: scores, its ONNX file against its graph, and latency.

    made -> scored -> written as ONNX -> compared with its graph -> let go                one network after another
    all files timed in turn

What the networks have in common is written once, with the serial one, and in the end the product as a file of its own,
as are the prefixes that are asked for.
Scores are of samples that neither fitted nor chose the plan. Latencies are measured in turn in one run.
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
        latencies: of a call at batch 1.
        comparisons: of its ONNX file with its graph.
        predicted: milliseconds on a target; empty where none is named.
        reloaded: whether each network was loaded anew for each of its turns of timing.
    """

    scores: Mapping[str, Scores]
    latencies: Mapping[str, Latency]
    comparisons: Mapping[str, Comparison]
    predicted: Mapping[str, float] = field(default_factory=dict)
    reloaded: bool = False


def write_serial(program: Program, directory: Path, report: Report) -> SharedWeights:
    """Write the network as it is before anything takes time: what has no ONNX form has none after a search either.

    Returns:
        Its weights, for other files beside it.

    Raises:
        ParallelizeError: an operator has no ONNX form, or ONNX Runtime refuses the file.
    """
    report("writing the serial network as ONNX", None)
    path, shared = directory / SCRATCH / SERIAL_ONNX, SharedWeights()
    path.parent.mkdir()
    write_onnx(program, path, shared=shared)
    let_go()
    OnnxRuntime(path, 1)
    return shared


def measure(
    job: Job,
    networks: Networks,
    shared: SharedWeights,
    directory: Path,
    report: Report,
    written: Mapping[str, str] | None = None,
) -> tuple[Variants[NetworkFacts], Measured]:
    """Score each network when it is made, write it as ONNX and compare it with its graph; time all in the end.

    Args:
        job: what is converted.
        networks: what to measure; of each the facts stay.
        shared: weights of the serial network as `write_serial` has written it.
        directory: where model.onnx of the product stays; the other files are removed.
        report: told what is being done.
        written: what files of further networks are called that stay, without their suffixes, by the networks' names.

    Raises:
        CheckError: an ONNX file does not compute what its graph computes.
    """
    report("judging", None)
    written = written or {}
    measuring = _Measuring(job, shared, directory / SCRATCH, report, {n: directory / s for n, s in written.items()})
    variants = taken(networks, measuring.take)
    measured = measuring.timed()
    kept = {measuring.files[variants.product.name]: directory / ONNX.product}
    kept |= {measuring.files[name]: directory / f"{stem}{ONNX.suffix}" for name, stem in written.items()}
    needed = {beside(Path(SERIAL_ONNX)), *(name for path in kept for name in (path.name, beside(path)))}
    _remove(path for path in (directory / SCRATCH).iterdir() if path.name not in needed)
    for scratch, path in kept.items():
        gathered(scratch, path)
    _remove((directory / SCRATCH).iterdir())
    (directory / SCRATCH).rmdir()
    return variants, measured


def _remove(files: Iterable[Path]) -> None:
    for path in list(files):
        path.unlink()


class _Measuring:
    """Takes one network after another and keeps numbers and files."""

    def __init__(
        self, job: Job, shared: SharedWeights, folder: Path, report: Report, written: Mapping[str, Path]
    ) -> None:
        self.job, self.folder, self.report, self.written = job, folder, report, written
        self.files: dict[str, Path] = {}
        self._shared = shared
        self._samples = job.prepared.data.judge
        self._judge = Judge(job.prepared.program.module, self._samples, job.metric)
        self._scores: dict[str, Scores] = {}
        self._comparisons: dict[str, Comparison] = {}
        self._predicted: dict[str, float] = {}

    def take(self, network: Network) -> NetworkFacts:
        """Measure all of a network but its latency."""
        name, target = network.name, self.job.asked_for
        self.report(f"judging '{name}'", None)
        serial = self.job.prepared.program
        answers = network.module if name != EVERY else last_answers(network.program, serial)
        self._scores[name] = self._judge.serial if name == SERIAL else self._judge.score(answers)
        if target is not None:
            self._predicted[name] = target.milliseconds(network.program, self._samples)
        self.report(f"writing and checking the ONNX of '{name}'", None)
        self.files[name] = self._written(network)
        self._comparisons[name] = compared(
            f"The ONNX of '{name}'",
            partial(self._run, name),
            network.program,
            self._samples,
            like=serial.module if name != EVERY else None,
        )
        if name in self.written:
            path = self.written[name]
            save_program(placed(network.program, CPU), path.with_name(f"{path.name}{PROGRAM.suffix}"))
        return NetworkFacts.of(network)

    def _written(self, network: Network) -> Path:
        """The ONNX file of a network; that of the serial one has been written."""
        if network.program.module is self.job.prepared.program.module:
            return self.folder / SERIAL_ONNX
        path = self.folder / f"{len(self.files)}{ONNX.suffix}"
        write_onnx(network.program, path, shared=self._shared)
        return path

    def _opened(self, name: str) -> OnnxRuntime:
        return OnnxRuntime(self.files[name], self.job.options.threads)

    def _run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of a file, which is open meanwhile and no longer."""
        let_go()
        return self._opened(name)(inputs)

    def timed(self) -> Measured:
        """Time all files in turn."""
        self.report("timing", None)
        options = self.job.options
        times, reloaded = onnx_latencies(self.files, self._samples, options.rounds, options.threads)
        return Measured(self._scores, times, self._comparisons, self._predicted, reloaded)
