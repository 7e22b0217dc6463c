"""Compare the outputs of networks on the same inputs, whatever runs them; the first is the reference.

Inputs go through all networks batch by batch, and only statistics are kept. What is compared is told by
`output_errors`, states inside by `by_level`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from parallelize.backends.artefact import Loadable, parse_artefact
from parallelize.backends.runner import Runner
from parallelize.data import Samples, stored
from parallelize.data.shared_inputs import SharedInputs, share
from parallelize.machine.torch_settings import torch_settings
from parallelize.measuring.by_level import LevelErrors, Staged, level_errors, stage
from parallelize.measuring.options import CompareOptions
from parallelize.measuring.output_errors import OutputComparison, OutputErrors
from parallelize.models.prepare import RANDOM_SAMPLES
from parallelize.terminal.progress import Report
from passes.errors import CheckError, ParallelizeError

if TYPE_CHECKING:
    from parallelize.models.source import Inputs, Model

BATCH = 32


@dataclass(frozen=True)
class NetworkErrors:
    """One network against the reference."""

    label: str
    runner: str
    outputs: tuple[OutputErrors, ...]
    levels: LevelErrors | None = None


@dataclass(frozen=True)
class CompareResult:
    """What a comparison found; true where nothing failed.

    Attributes:
        reference: label and runner of the first network.
        networks: the others.
        samples: that all of them ran.
        random: whether they are random numbers.
        options: of the comparison.
    """

    reference: tuple[str, str]
    networks: tuple[NetworkErrors, ...]
    samples: int
    random: bool
    options: CompareOptions

    def __bool__(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each output that failed."""
        pairs = [(network.label, output) for network in self.networks for output in network.outputs]
        found = (_failure(label, output, self.options) for label, output in pairs)
        return tuple(sentence for sentence in found if sentence is not None)

    def check(self) -> None:
        """Refuse what failed.

        Raises:
            CheckError: naming the first output that did.
        """
        if self.failures:
            raise CheckError(self.failures[0], "The table says what tolerance would pass; --by-level finds where.")


def _failure(label: str, output: OutputErrors, options: CompareOptions) -> str | None:
    where = f"The output {output.name!r} of {label}"
    if output.non_finite:
        return f"{where} or of the reference is NaN or infinite in {output.non_finite} of {output.elements} elements."
    if not options.judges or not output.failing:
        return None
    if output.absolute is None:
        return f"{where} differs in {output.failing} of {output.elements} elements."
    limit = options.tolerance
    return (
        f"{where} is outside of atol {limit.atol:g}, rtol {limit.rtol:g} in {output.failing} of {output.elements}"
        f" elements; the largest error is {output.absolute.max:.3g}."
    )


def compare(
    *artefacts: Model | Loadable,
    inputs: Inputs | None = None,
    options: CompareOptions | None = None,
    report: Report = lambda _what, _share: None,
) -> CompareResult:
    """Compare the outputs of networks on the same inputs.

    Args:
        artefacts: the reference, then the others, spelled as on the command line, programs, modules, also loaded
            ones.
        inputs: .npz of samples, or samples in memory; without it 64 random ones, which say nothing about accuracy.
        options: tolerance, batch and the rest.
        report: told what is being done.

    Raises:
        CheckError: networks that do not read or return the same.
        EnvironmentLackError: the machine lacks what a runner needs.
        ParallelizeError: something cannot be loaded, or its states cannot be compared.
    """
    options = options or CompareOptions()
    path = None if inputs is None else stored(inputs)
    loading = replace(options.runner, inputs=path)
    named = [parse_artefact(artefact) for artefact in artefacts]
    labels = distinct([artefact.label for artefact in named])
    if len(named) < 2:
        raise ParallelizeError("A comparison needs two networks or more.", "Name the reference first.")
    staged: list[Staged] = []
    if options.by_level:
        report("finding states", None)
        staged = [stage(artefact, loading) for artefact in named]
    with ExitStack() as stack, torch_settings(loading.threads, tf32=loading.tf32):
        report("loading", None)
        runners = {
            label: stack.enter_context(artefact.opened(loading)) for label, artefact in zip(labels, named, strict=True)
        }
        shared = share({label: runner.inputs for label, runner in runners.items()})
        samples = shared.samples(path, max(RANDOM_SAMPLES, options.batch or BATCH), options.seed)
        size = shared.batch_size(samples, options.batch, BATCH)
        report("comparing", None)
        found = _outputs(runners, shared, samples, size, options)
        levels = _levels(labels, staged, shared, samples, size, options)
    first, *others = labels
    networks = tuple(NetworkErrors(label, runners[label].name, found[label], levels.get(label)) for label in others)
    return CompareResult((first, runners[first].name), networks, len(samples), path is None, options)


def distinct(labels: Sequence[str]) -> list[str]:
    """Labels of which each is there once: a repeated one gets its number."""
    return [
        label if labels.count(label) == 1 else f"{label} #{labels[: place + 1].count(label)}"
        for place, label in enumerate(labels)
    ]


def _outputs(
    runners: dict[str, Runner], shared: SharedInputs, samples: Samples, size: int, options: CompareOptions
) -> dict[str, tuple[OutputErrors, ...]]:
    first, *others = runners
    names = [spec.name for spec in runners[first].outputs]
    comparisons = {
        label: [OutputComparison(name, options.tolerance, options.quantile) for name in names] for label in others
    }
    for batch, count in zip(samples.batches(size), samples.counts(size), strict=True):
        expected = runners[first](shared.fed(first, batch))
        for label in others:
            actual = runners[label](shared.fed(label, batch))
            _require_alike(first, expected, label, actual)
            for comparison, r, y in zip(comparisons[label], expected, actual, strict=True):
                comparison.add(*(samples.cut(value, count) for value in (r, y)))
    return {label: tuple(each.result() for each in found) for label, found in comparisons.items()}


def _require_alike(first: str, expected: Sequence[Tensor], label: str, actual: Sequence[Tensor]) -> None:
    hint = "Compare networks that return the same outputs in the same order."
    if len(expected) != len(actual):
        raise CheckError(f"{label} returns {len(actual)} outputs, {first} returns {len(expected)}.", hint)
    for number, (r, y) in enumerate(zip(expected, actual, strict=True)):
        if r.shape != y.shape or r.is_floating_point() != y.is_floating_point():
            ours, theirs = (f"{'x'.join(map(str, v.shape))}@{str(v.dtype).removeprefix('torch.')}" for v in (y, r))
            raise CheckError(f"Output {number} of {label} is {ours}, of {first} {theirs}.", hint)


def _levels(
    labels: Sequence[str],
    staged: Sequence[Staged],
    shared: SharedInputs,
    samples: Samples,
    size: int,
    options: CompareOptions,
) -> dict[str, LevelErrors]:
    if not staged:
        return {}

    def fed(label: str) -> Iterator[tuple[Sequence[Tensor], Sequence[Tensor]]]:
        return ((shared.fed(labels[0], batch), shared.fed(label, batch)) for batch in samples.batches(size))

    return {
        label: level_errors(staged[0], ours, fed(label), options.threshold)
        for label, ours in zip(labels[1:], staged[1:], strict=True)
    }
