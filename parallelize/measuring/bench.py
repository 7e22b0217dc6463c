"""Time networks on the same inputs, in turn, whatever runs them.

trtexec's protocol: a warm-up, then some seconds of each network, percentiles; on a GPU the time between events, apart
from the host's, with a CUDA graph and without transfers. What a machine cannot run is skipped with its reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from parallelize.backends.artefact import Artefact, Loadable, parse_artefact
from parallelize.backends.runner import Runner
from parallelize.backends.runner_options import RunnerOptions
from parallelize.data import stored
from parallelize.data.shared_inputs import share
from parallelize.machine.latency import Length, Moment, in_turn, percentiles
from parallelize.machine.torch_settings import torch_settings
from parallelize.measuring.compare import distinct
from parallelize.measuring.options import BenchOptions
from parallelize.measuring.rivals import rivals
from parallelize.measuring.timing import Ready, ready, timing_stream
from parallelize.terminal.progress import Report
from passes.errors import EnvironmentLackError, ParallelizeError

if TYPE_CHECKING:
    from parallelize.models.source import Inputs, Model

ENQUEUE_BOUND = 0.8  # of the GPU's time, spent on the host before the call returns


@dataclass(frozen=True)
class Timing:
    """One network's times in milliseconds.

    Attributes:
        label: what the user called it.
        runner: that ran it.
        device: where.
        iterations: calls that were counted.
        host: percentiles of the time until the result was there, by percentile.
        enqueue: of the time until the call returned; None on the CPU.
        gpu: of the time on the GPU; None on the CPU.
        cuda_graph: whether the kernels were in a CUDA graph.
        note: what was not as asked for, in a sentence; mostly empty.
    """

    label: str
    runner: str
    device: str
    iterations: int
    host: Mapping[float, float]
    enqueue: Mapping[float, float] | None
    gpu: Mapping[float, float] | None
    median: float
    cuda_graph: bool = False
    note: str = ""
    enqueue_bound: bool = False


@dataclass(frozen=True)
class Skipped:
    """A network that was not timed, and why."""

    label: str
    reason: str
    hint: str


@dataclass(frozen=True)
class BenchResult:
    """What was measured and what was not.

    Attributes:
        timings: in the order in which the networks were named.
        skipped: networks that this machine cannot run.
        batch: samples of a call.
        by_gpu: whether `median` is time on the GPU, as it is where all were timed on one.
        options: of the measurement.
    """

    timings: tuple[Timing, ...]
    skipped: tuple[Skipped, ...]
    batch: int
    by_gpu: bool
    options: BenchOptions

    def speed_up(self, timing: Timing) -> float:
        """The first network's median over this one's."""
        return self.timings[0].median / timing.median


def bench(
    *artefacts: Model | Loadable,
    inputs: Inputs | None = None,
    options: BenchOptions | None = None,
    report: Report = lambda _what, _share: None,
) -> BenchResult:
    """Time networks in turn on the same inputs.

    Args:
        artefacts: spelled as on the command line, programs, modules, also loaded ones; speed-ups are against the
            first.
        inputs: .npz of samples, or samples in memory, of which the first are run; without it random ones.
        options: duration, batch and the rest.
        report: told what is being done.

    Raises:
        CheckError: networks that do not read the same.
        EnvironmentLackError: this machine can run none of them.
        ParallelizeError: something cannot be loaded.
    """
    options = options or BenchOptions()
    path = None if inputs is None else stored(inputs)
    loading = replace(options.runner, inputs=path)
    named = [parse_artefact(artefact) for artefact in artefacts]
    if not named:
        raise ParallelizeError("There is nothing to time.", "Name a network.")
    if options.prefixes:
        named = [each for artefact in named for each in (artefact, *artefact.prefixes)]
    with ExitStack() as stack, torch_settings(loading.threads, tf32=loading.tf32):
        if options.rivals:
            report("building the rivals", None)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parallelize-")))
            named = [*named, *rivals(named[0], options.model, loading, folder, report)]
        runners, skipped = _opened(named, loading, stack, report)
        shared = share({label: runner.inputs for label, runner in runners.items()})
        samples = shared.samples(path, options.batch or 1, options.seed)
        size = shared.batch_size(samples, options.batch, 1)
        if len(samples) < size and samples.fixed is None:
            raise ParallelizeError(
                f"{path} holds {len(samples)} samples, a batch has {size}.", "Use a smaller --batch."
            )
        batch = samples.batch(size)
        with timing_stream(runners.values()) as stream:
            bound: dict[str, Ready] = {}
            for label, runner in runners.items():
                with _skipping(label, skipped):
                    bound[label] = ready(runner, shared.fed(label, batch), stream, cuda_graph=options.cuda_graph)
            _require_some(bound, skipped)
            report("timing", None)
            calls = {label: (each.call, each.clock) for label, each in bound.items()}
            moments = in_turn(calls, Length(seconds=options.duration, warm_up=options.warm_up / 1e3))
    by_gpu = all(runners[label].device.type == "cuda" for label in bound)
    timings = (_timing(label, runners[label], bound[label], moments[label], options, by_gpu=by_gpu) for label in bound)
    return BenchResult(tuple(timings), tuple(skipped), size, by_gpu, options)


def _opened(
    named: Sequence[Artefact], options: RunnerOptions, stack: ExitStack, report: Report
) -> tuple[dict[str, Runner], list[Skipped]]:
    """Runners of what this machine can run, and what it cannot.

    Raises:
        EnvironmentLackError: it can run nothing.
    """
    runners: dict[str, Runner] = {}
    skipped: list[Skipped] = []
    labels = distinct([artefact.label for artefact in named])
    for number, (label, artefact) in enumerate(zip(labels, named, strict=True)):
        report("loading", number / len(named))
        with _skipping(label, skipped):
            runners[label] = stack.enter_context(artefact.opened(options))
    _require_some(runners, skipped)
    return runners, skipped


@contextmanager
def _skipping(label: str, skipped: list[Skipped]) -> Iterator[None]:
    """Note what the machine lacks, and go on."""
    try:
        yield
    except EnvironmentLackError as error:
        skipped.append(Skipped(label, str(error), error.hint))


def _require_some(found: Mapping[str, object], skipped: Sequence[Skipped]) -> None:
    if not found:
        raise EnvironmentLackError(f"Nothing could be timed: {skipped[0].reason}", skipped[0].hint)


def _timing(
    label: str, runner: Runner, ready: Ready, moments: Sequence[Moment], options: BenchOptions, *, by_gpu: bool
) -> Timing:
    host = [moment.host for moment in moments]
    enqueue = [moment.enqueue for moment in moments if moment.enqueue is not None]
    gpu = [moment.gpu for moment in moments if moment.gpu is not None]
    (median,) = percentiles(gpu if by_gpu else host, (50,))
    bound = bool(gpu) and percentiles(enqueue, (50,))[0] >= ENQUEUE_BOUND * percentiles(gpu, (50,))[0]

    def spread(values: Sequence[float]) -> Mapping[float, float] | None:
        shares = options.percentiles
        return dict(zip(shares, percentiles(values, shares), strict=True)) if values else None

    return Timing(
        label=label,
        runner=runner.name,
        device=str(runner.device),
        iterations=len(moments),
        host=spread(host) or {},
        enqueue=spread(enqueue),
        gpu=spread(gpu),
        median=median,
        cuda_graph=ready.cuda_graph,
        note=ready.note,
        enqueue_bound=bound,
    )
