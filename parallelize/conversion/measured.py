"""What is measured of every network of a conversion: scores, its ONNX file against its graph, and latency.

    made -> scored -> written as ONNX -> compared with its graph -> let go                one network after another
    all files timed in turn

What the networks have in common is written once, with the serial one, and in the end the product as a file of its own.
Scores are of samples that neither fitted nor chose the plan. Latencies are measured in turn in one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor

from parallelize.backends.backend import ONNX
from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.baselines.networks import SERIAL, Networks, Variants, taken
from parallelize.conversion.job import Job
from parallelize.export.onnx import write_onnx
from parallelize.export.weight_files import SharedWeights, beside, gathered
from parallelize.machine.latency import Latency
from parallelize.machine.mapped import let_go
from parallelize.measuring.onnx_latency import onnx_latencies
from parallelize.measuring.written import Comparison, compared
from parallelize.metrics import Judge, Scores
from parallelize.models.network import Network, NetworkFacts
from parallelize.models.program import Program
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
    job: Job, networks: Networks, shared: SharedWeights, directory: Path, report: Report
) -> tuple[Variants[NetworkFacts], Measured]:
    """Score each network when it is made, write it as ONNX and compare it with its graph; time all in the end.

    Args:
        job: what is converted.
        networks: what to measure; of each the facts stay.
        shared: weights of the serial network as `write_serial` has written it.
        directory: where model.onnx of the product stays; the other files are removed.
        report: told what is being done.

    Raises:
        CheckError: an ONNX file does not compute what its graph computes.
    """
    report("judging", None)
    measuring = _Measuring(job, shared, directory / SCRATCH, report)
    variants = taken(networks, measuring.take)
    measured = measuring.timed()
    product = measuring.files[variants.product.name]
    needed = {product.name, beside(product), beside(Path(SERIAL_ONNX))}
    _remove(path for path in (directory / SCRATCH).iterdir() if path.name not in needed)
    gathered(product, directory / ONNX.product)
    _remove((directory / SCRATCH).iterdir())
    (directory / SCRATCH).rmdir()
    return variants, measured


def _remove(files: Iterable[Path]) -> None:
    for path in list(files):
        path.unlink()


class _Measuring:
    """Takes one network after another and keeps numbers and files."""

    def __init__(self, job: Job, shared: SharedWeights, folder: Path, report: Report) -> None:
        self.job, self.folder, self.report = job, folder, report
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
        self._scores[name] = self._judge.serial if name == SERIAL else self._judge.score(network.module)
        if target is not None:
            self._predicted[name] = target.milliseconds(network.program, self._samples)
        self.report(f"writing and checking the ONNX of '{name}'", None)
        self.files[name] = self._written(network)
        self._comparisons[name] = compared(
            f"The ONNX of '{name}'",
            partial(self._run, name),
            network.program,
            self._samples,
            like=self.job.prepared.program.module,
        )
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
