"""How a network is run over a file of samples. Imports no torch, because the command line makes its options of it."""

from __future__ import annotations

from dataclasses import dataclass

from parallelize.backends.runner_options import RunnerOptions
from parallelize.measuring.options import OWN_METRIC
from parallelize.metrics.metric import Metric
from parallelize.planning.options import MemoryOptions
from parallelize.terminal.option_field import Spelling, option, options_of


@dataclass(frozen=True, kw_only=True)
class RunFileOptions(MemoryOptions):
    """How to run.

    Attributes:
        batch: samples at a time; None is 32, or what the network is fixed to.
        labels: name of the array of class labels among the samples.
        mask: name of the input that is 0 at padding; `attention_mask` is found by itself.
        metric: by which the outputs are scored; None is top-1 where there are labels, and no score without.
        runner: how the network is loaded and run.
    """

    batch: int | None = option(
        None, "Samples at a time (default: 32, or what the network is fixed to).", metavar="N", least=1
    )
    labels: str | None = option(None, "Array of class labels in the .npz, for a score.", metavar="NAME")
    mask: str | None = option(None, "Input that is 0 at padding (default: attention_mask).", metavar="NAME")
    metric: Metric | str | None = option(
        None,
        "Score the outputs: top1-drop (accuracy, the default with --labels), perplexity, or a function of your own.",
        metavar=OWN_METRIC,
        spelling=Spelling(str | None),
    )
    runner: RunnerOptions = options_of(RunnerOptions)
