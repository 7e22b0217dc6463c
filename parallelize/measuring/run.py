"""Run a network over a file of samples, in one process or in several that have its branches among them.

One process runs any artefact as its backend does. Several run a program whose branches are apart: `branches.pt2` of a
directory that `convert` wrote, or any model that has levels of several branches. Each captures the same program, keeps
its own branches (parallelize/models/of_rank.py), and reads the same samples; rank 0 collects and writes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from parallelize.backends.artefact import Artefact, parse_artefact
from parallelize.backends.backend import PROGRAM
from parallelize.backends.runner import Runner
from parallelize.data import Samples, load_samples
from parallelize.data.buffer import Buffer
from parallelize.data.fingerprint import run_identity
from parallelize.files.whole_file import output_file, require_place
from parallelize.machine.device import choose_device, described
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.machine.torch_settings import torch_settings
from parallelize.measuring.run_options import RunFileOptions
from parallelize.measuring.run_score import Score, require_scorable, scored
from parallelize.measuring.sample_outputs import SampleOutputs, write_outputs
from parallelize.models.program import Program
from parallelize.models.saving import BRANCHES
from parallelize.terminal.progress import Report
from passes.errors import ParallelizeError
from passes.runner import PassRecord

BATCH = 32


@dataclass(frozen=True)
class RunResult:
    """What a run did.

    Attributes:
        label: what the user called the network.
        runner: the backend that ran it.
        device: of this process.
        ranks: how many processes shared its branches.
        samples: that it ran.
        batch: samples at a time.
        seconds: from the first batch to the last, data on the host to outputs on the host.
        outputs: the shape of each output as it is written, by its name.
        spread: what the pass did that spread the branches; None in one process.
        score: of the outputs; None where none was asked for.
    """

    label: str
    runner: str
    device: str
    ranks: int
    samples: int
    batch: int
    seconds: float
    outputs: dict[str, tuple[int, ...]]
    spread: PassRecord | None = None
    score: Score | None = None


def run(
    model: str | os.PathLike[str] | Program,
    inputs: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    options: RunFileOptions | None = None,
    report: Report = lambda _what, _share: None,
    ranks: Ranks = ALONE,
) -> RunResult:
    """Run a network over all samples of a file.

    Args:
        model: an artefact as on the command line, or a captured program.
        inputs: .npz of samples.
        output: .npz to write, the outputs by their names; a file that is there is replaced when all is done.
        options: batch, score and the rest.
        report: told what is being done.
        ranks: the processes that share the branches; each of them calls this with the same arguments.

    Raises:
        EnvironmentLackError: the machine lacks what the network needs, or another rank is gone.
        ParallelizeError: something cannot be loaded or does not fit, or no level has a branch for each rank.
    """
    options = options or RunFileOptions()
    target = None if output is None else Path(output)
    if target is not None:
        require_place(target, _failed(target))
    artefact = parse_artefact(model)
    settings = options.runner
    with torch_settings(settings.threads, tf32=settings.tf32), _opened(artefact, Path(inputs), options, ranks) as run:
        report("running", 0.0)
        start = time.perf_counter()
        collected = run.collect(report)
        seconds = time.perf_counter() - start
        leads = ranks.rank == 0
        score = scored(options, [each.outputs for each in collected], run.samples) if leads else None
    if target is not None and leads:
        report("writing the outputs", None)
        with output_file(target, _failed(target)) as temporary:
            write_outputs(collected, temporary)
    return RunResult(
        label=artefact.label,
        runner=run.runner.name,
        device=described(run.runner.device),
        ranks=ranks.size,
        samples=len(run.samples),
        batch=run.size,
        seconds=seconds,
        outputs={each.name: tuple(each.parts().shape) for each in collected},
        spread=run.spread,
        score=score,
    )


def _failed(path: Path) -> str:
    return f"{path} cannot be written"


@dataclass(frozen=True)
class _Run:
    """A network that is ready, with its samples."""

    runner: Runner
    samples: Samples
    size: int
    ranks: Ranks
    spread: PassRecord | None = None

    def collect(self, report: Report) -> list[SampleOutputs]:
        """Run all batches; rank 0 has the outputs."""
        leads = self.ranks.rank == 0
        specs = self.runner.outputs if leads else ()
        found = [SampleOutputs(spec, self.runner.inputs, self.samples) for spec in specs]
        done = 0
        for batch, count in zip(self.samples.batches(self.size), self.samples.counts(self.size), strict=True):
            with self.ranks.together():
                values = self.runner(batch)
            for output, value in zip(found, values, strict=leads):
                output.add(value, self.samples.fixed or count, count)
            done += count
            report("running", done / len(self.samples))
        return found


@contextmanager
def _opened(artefact: Artefact, inputs: Path, options: RunFileOptions, ranks: Ranks) -> Iterator[_Run]:
    """The network in one process or as this rank has it, with the samples."""
    if ranks.size == 1:
        with artefact.opened(replace(options.runner, inputs=inputs)) as runner:
            samples = _samples(inputs, runner, options)
            yield _Run(runner, samples, _size(samples, options), ranks)
        return
    yield _of_rank(artefact, inputs, options, ranks)


def _of_rank(artefact: Artefact, inputs: Path, options: RunFileOptions, ranks: Ranks) -> _Run:
    from parallelize.backends.torch.eager import Eager
    from parallelize.machine.rank_group import rank_group
    from parallelize.models.acceptance import refuse_any_random
    from parallelize.models.clean import clean
    from parallelize.models.of_rank import of_rank
    from parallelize.models.prepare import captured

    loading = replace(options.runner, inputs=inputs).loading(_apart(artefact))
    program, _ = clean(captured(loading))
    refuse_any_random(program)
    device = choose_device(options.runner.device, ranks.local)
    samples = load_samples(inputs, program.inputs, options.labels, options.mask)
    ranks.require_same(lambda: run_identity(program.module, [samples], repr(options)))
    group = rank_group(device)
    part = of_rank(program, ranks.rank, ranks.size, group)
    runner = Eager(part.program, device)
    samples = _samples(inputs, runner, options)
    return _Run(runner, samples, _size(samples, options), ranks, part.record)


def _apart(artefact: Artefact) -> Program | str | nn.Module:
    """The network whose branches are not fused.

    Raises:
        ParallelizeError: there is none.
    """
    if artefact.kind != PROGRAM:
        raise ParallelizeError(
            f"{artefact.label} is {artefact.kind.what}, whose branches cannot be taken apart.",
            "Name the directory that `convert` wrote, or a model.",
        )
    if artefact.path is None or artefact.plan is None:
        return artefact.source
    beside = artefact.path.with_name(BRANCHES)
    if not beside.is_file():
        raise ParallelizeError(
            f"{artefact.path.parent} has no {BRANCHES}, and the branches of its model are fused.",
            "Convert again with --branches, or run it in one process.",
        )
    return str(beside)


def _samples(inputs: Path, runner: Runner, options: RunFileOptions) -> Samples:
    samples = load_samples(inputs, runner.inputs, options.labels, options.mask)
    require_scorable(options, samples)
    return replace(samples, buffer=Buffer(options.buffer_bytes))


def _size(samples: Samples, options: RunFileOptions) -> int:
    """Samples at a time.

    Raises:
        ParallelizeError: another number was asked for than the network is fixed to.
    """
    if samples.fixed is not None and options.batch not in (None, samples.fixed):
        raise ParallelizeError(
            f"The batch is fixed to {samples.fixed}, not {options.batch}.", f"Use --batch {samples.fixed}."
        )
    return samples.size(options.batch or BATCH)
