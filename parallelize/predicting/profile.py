"""A target measured on the GPU that is here: the sweep, each chain in a CUDA graph, then one fit of all numbers.

A chain is timed by events around some replays of its graph, a millisecond of them or one; the median of some rounds
counts. TF32 is on for the trials of that precision only.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from statistics import median

import torch

from parallelize.machine.device import choose_device
from parallelize.machine.gpu import cuda_version, driver_version
from parallelize.machine.gpu_clock import gpu_clock, graphed, new_stream
from parallelize.machine.torch_settings import torch_settings
from parallelize.predicting.fitting import Measured, fit, median_error, started
from parallelize.predicting.kernel import Precision
from parallelize.predicting.sweep import Call, sweep
from parallelize.predicting.target import Target
from parallelize.terminal.progress import Report
from passes.errors import EnvironmentLackError

_ROUNDS = 7
_ROUND_MS = 1.0
_PRIOR = 0.02  # a sweep tells all numbers, so a start weighs next to nothing


def profile_gpu(
    device: str | None = None,
    precisions: Sequence[Precision] | None = None,
    report: Report = lambda _what, _share: None,
) -> Target:
    """Measure a GPU.

    Args:
        device: such as "cuda:1"; None is the first GPU.
        precisions: to measure; None is all that the GPU computes products in.
        report: told what is being done.

    Raises:
        EnvironmentLackError: there is no CUDA GPU, or too little of its memory is free.
    """
    chosen = choose_device(device)
    if chosen.type != "cuda":
        raise EnvironmentLackError(
            "There is no CUDA GPU to profile.", "Run this where the GPU is, or take a shipped target: --target h200."
        )
    with torch.cuda.device(chosen):
        facts = torch.cuda.get_device_properties(chosen)
        known = tuple(precisions or _precisions(facts.major))
        start = started(facts.name, f"{facts.major}.{facts.minor}", facts.multi_processor_count, known)
        measured = _measured(known, chosen, report)
    report("fitting the numbers", None)
    return fitted_to(measured, start)


def fitted_to(measured: Sequence[Measured], start: Target) -> Target:
    """The target that a sweep tells, dated now.

    Args:
        measured: the chains of `parallelize.predicting.sweep`.
        start: what is known beside them.
    """
    found = fit(measured, start, prior=_PRIOR)
    now = dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
    versions = {"torch": str(torch.__version__), "CUDA": cuda_version(), "driver": driver_version()}
    return replace(
        found,
        error=float(f"{median_error(measured, found):.3g}"),
        error_of=f"{len(measured)} chains of kernels that the numbers were fitted to",
        measured_on={"date": now, **{name: version for name, version in versions.items() if version is not None}},
    )


def _precisions(major: int) -> tuple[Precision, ...]:
    """What a GPU of that compute capability computes products in, the one that serves networks first."""
    return ("bf16", "fp16", "tf32", "fp32") if major >= 8 else ("fp16", "fp32")


def _measured(precisions: Sequence[Precision], device: torch.device, report: Report) -> list[Measured]:
    trials = sweep(precisions)
    stream = new_stream()
    found = []
    with torch.inference_mode(), torch.cuda.stream(stream):
        for number, trial in enumerate(trials):
            precision = trial.kernels.precision
            report(f"measuring kernels in {precision}", number / len(trials))
            try:
                with torch_settings(torch.get_num_threads(), tf32=precision == "tf32"):
                    found.append(Measured(trial.kernels, _microseconds(trial.make(device), stream)))
            except torch.cuda.OutOfMemoryError as error:
                raise EnvironmentLackError(
                    f"The GPU has too little free memory for {trial.kernels.launches[0].kernel}.",
                    "Free about two GB of it, or choose another GPU with --device.",
                ) from error
    return found


def _microseconds(call: Call, stream: torch.cuda.Stream) -> float:
    replay, clock = graphed(call, stream), gpu_clock(stream)

    def again(times: int) -> float:
        def replays() -> None:
            for _ in range(times):
                replay()

        gpu = clock(replays).gpu
        assert gpu is not None
        return gpu / times

    again(1)
    times = max(1, ceil(_ROUND_MS / max(again(1), 1e-3)))
    return median(again(times) for _ in range(_ROUNDS)) * 1e3
