"""What is measured of every network of a conversion: scores, its ONNX file against its graph, and latency.

Scores are of samples that neither fitted nor chose the plan. Latencies are measured in turn in one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parallelize.backends.backend import ONNX
from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.baselines.networks import SERIAL, Variants
from parallelize.conversion.job import Job
from parallelize.data import Samples
from parallelize.machine.latency import Latency
from parallelize.measuring.timing import latencies
from parallelize.measuring.written import Comparison, compared
from parallelize.metrics import Judge, Metric, Scores
from parallelize.models.program import Program
from parallelize.terminal.progress import Report

SCRATCH, SERIAL_ONNX = "scratch", "serial.onnx"  # beside the products, removed in the end


@dataclass(frozen=True)
class Measured:
    """What was measured of every network, by its name."""

    scores: Mapping[str, Scores]
    latencies: Mapping[str, Latency]
    comparisons: Mapping[str, Comparison]


def write_serial(program: Program, directory: Path, report: Report) -> None:
    """Write the network as it is before anything takes time: what has no ONNX form has none after a search either.

    Raises:
        ParallelizeError: an operator has no ONNX form, or ONNX Runtime refuses the file.
    """
    report("writing the serial network as ONNX", None)
    path = directory / SCRATCH / SERIAL_ONNX
    path.parent.mkdir()
    OnnxRuntime.written(program, path)


def measure(job: Job, variants: Variants, directory: Path, report: Report) -> Measured:
    """Score all networks, write each as ONNX, compare it with its graph and time all of them in turn at batch 1.

    Args:
        job: whose serial network `write_serial` has written.
        variants: what to measure.
        directory: where model.onnx of the product stays; the other files are removed.
        report: told what is being done.

    Raises:
        CheckError: an ONNX file does not compute what its graph computes.
    """
    judge = job.prepared.data.judge
    scores = _score(variants, judge, job.metric, report)
    comparisons, sessions = {}, {}
    for number, network in enumerate(variants.items):
        report("writing and checking ONNX", number / len(variants.items))
        name = ONNX.product if network.name == variants.product.name else f"{SCRATCH}/{number}.onnx"
        sessions[network.name] = session = _session(network.program, job, directory, name)
        what = f"The ONNX of '{network.name}'"
        comparisons[network.name] = compared(
            what, session, network.program, judge, like=variants[SERIAL].program.module
        )
    report("timing", None)
    times = latencies(sessions, judge, job.options.rounds)
    for path in (directory / SCRATCH).iterdir():
        path.unlink()
    (directory / SCRATCH).rmdir()
    return Measured(scores, times, comparisons)


def _score(variants: Variants, samples: Samples, metric: Metric, report: Report) -> dict[str, Scores]:
    """Scores of every network on the samples that judge."""
    report("judging", 0)
    judge = Judge(variants[SERIAL].program.module, samples, metric)
    scores = {SERIAL: judge.serial}
    others = [network for network in variants.items if network.name != SERIAL]
    for number, network in enumerate(others, 1):
        report("judging", number / len(variants.items))
        scores[network.name] = judge.score(network.module)
    return scores


def _session(program: Program, job: Job, directory: Path, name: str) -> OnnxRuntime:
    """The ONNX file of a network; that of the serial one has been written."""
    if program.module is job.prepared.program.module:
        return OnnxRuntime(directory / SCRATCH / SERIAL_ONNX, job.options.threads)
    return OnnxRuntime.written(program, directory / name, job.options.threads)
