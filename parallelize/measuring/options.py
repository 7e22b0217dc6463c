"""How networks are measured: judged and timed, benchmarked, compared.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallelize.backends.runner_options import RunnerOptions
from parallelize.metrics.catalogue import known_metrics
from parallelize.metrics.metric import Metric
from parallelize.terminal.option_field import Spelling, option, options_of
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    from parallelize.measuring.output_errors import Tolerance

OWN_METRIC = "NAME|FILE.py:FUNCTION"
THRESHOLD = 1e-3  # relative L2 error over which states have parted
_PERCENTILES = (50.0, 90.0, 99.0)


def _metrics() -> str:
    """All metrics, and where each is the default."""
    known = known_metrics().values()
    return ", ".join(f"{m.name} (default {m.default.where})" if m.default is not None else m.name for m in known)


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How the networks of a conversion or a search are judged and timed.

    Attributes:
        metric: what the search minimises and a budget limits, by its name or as `file.py:function`; None is KL for
            logits (samples, classes), relative L2 otherwise.
        threads: of ONNX Runtime when latency is measured.
        rounds: how often each network is timed.
    """

    metric: Metric | str | None = option(
        None,
        f"What the search minimises and --max-error limits: {_metrics()}, or a function of your own.",
        metavar=OWN_METRIC,
        spelling=Spelling(str | None),
    )
    threads: int = option(1, "Threads of ONNX Runtime while timing.", least=1)
    rounds: int = option(200, "How often each network is timed.", least=1)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """On what artefacts are run.

    Attributes:
        batch: samples of a call; None is what the measurement takes, or what a network is fixed to.
        seed: of random inputs.
    """

    batch: int | None = option(None, "Samples at a time.", metavar="N", least=1)
    seed: int = option(0, "Seeds random inputs.")


@dataclass(frozen=True)
class CompareOptions(RunOptions):
    """How to compare; `batch` is 32 by default.

    Attributes:
        atol: largest |d| that passes, beside rtol |r|; with rtol None as well nothing but NaN fails.
        rtol: the same, relative.
        quantile: of the errors, beside their median.
        by_level: compare states inside as well.
        threshold: relative L2 error above which states have parted.
        runner: how artefacts are loaded and run.
    """

    atol: float | None = option(None, "Fail where |d| is over ATOL + RTOL |reference|.", metavar="ATOL", least=0)
    rtol: float | None = option(None, "See --atol.", metavar="RTOL", least=0)
    quantile: float = option(0.99, "Of the errors, beside their median.", least=0, most=1)
    by_level: bool = option(False, "Compare the states of residual stacks and name the first that differs.")
    threshold: float = option(THRESHOLD, "Relative L2 error over which a state counts as different.", least=0)
    runner: RunnerOptions = options_of(RunnerOptions)

    @property
    def tolerance(self) -> Tolerance:
        """What is not given is 0."""
        from parallelize.measuring.output_errors import Tolerance

        return Tolerance(self.atol or 0.0, self.rtol or 0.0)

    @property
    def judges(self) -> bool:
        """Whether a tolerance was given."""
        return self.atol is not None or self.rtol is not None


def _percentiles(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= share <= 100 for share in found):
        raise ParallelizeError(f"The percentiles {text!r} are not numbers from 0 to 100.", "Use --percentile 50,90,99.")
    return found


@dataclass(frozen=True)
class BenchOptions(RunOptions):
    """How to time; `batch` is 1 by default.

    Attributes:
        warm_up: milliseconds of each network that are not counted.
        duration: seconds of each network that are counted, ten calls at least.
        percentiles: of the times.
        cuda_graph: hold the kernels of a call in a CUDA graph.
        rivals: time the networks of the first artefact's conversion as well: serial, unfused, deleted.
        model: what that artefact was converted from.
        prefixes: time the prefixes in directories of `convert` as well.
        runner: how artefacts are loaded and run.
    """

    warm_up: float = option(200, "Of each network, not counted.", metavar="MS", least=0)
    duration: float = option(3, "Of each network, counted; ten calls at least.", metavar="SECONDS", least=0)
    percentiles: tuple[float, ...] = option(
        _PERCENTILES,
        "Of the times.",
        metavar="P,P,...",
        name="--percentile",
        spelling=Spelling(str, ",".join(f"{share:g}" for share in _PERCENTILES), _percentiles),
    )
    cuda_graph: bool = option(True, "Hold a call's kernels in a CUDA graph on a GPU.")
    rivals: bool = option(False, "Of a directory of `convert`: time serial, unfused, fused and deleted as well.")
    prefixes: bool = option(True, "Of a directory of `convert`: time the prefixes that it holds as well.")
    model: str | None = option(None, "What that directory was converted from, for --rivals.", metavar="MODEL")
    runner: RunnerOptions = options_of(RunnerOptions, tf32=True)
