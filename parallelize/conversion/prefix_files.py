"""Prefixes in a conversion: which there are, what their files are called, and what is told of them.

prefix_4.pt2    prefix_4.onnx    prefix_4.engine      the network of the first four branches of the last level
prefixes.pt2    prefixes.onnx    prefixes.engine      the one that answers after each prefix
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from parallelize.backends.artefact import EVERY_PREFIX
from parallelize.backends.backend import ONNX, PROGRAM
from parallelize.backends.tensorrt.backend import ENGINE
from parallelize.baselines.prefixes import EVERY, Prefixes, prefixes_of
from parallelize.conversion.engines import Built, Other
from parallelize.conversion.job import Job
from parallelize.conversion.prefix_options import asked_prefixes
from parallelize.conversion.prefix_result import PrefixesWritten, PrefixNetwork
from parallelize.conversion.scheduling import Schedule
from parallelize.machine.device import CPU
from parallelize.models.placement import placed
from parallelize.models.program import Program
from parallelize.refitting.prefix_rest import RestOfLevel


def find_prefixes(job: Job, schedule: Schedule) -> Prefixes | None:
    """The prefixes that were asked for, of the level that the schedule makes.

    Raises:
        ParallelizeError: there is no level of several branches, or it has no such prefix.
    """
    options, counts = job.options, asked_prefixes(job.options)
    if counts is None:
        return None
    program, data = job.prepared.program, job.prepared.data
    found = prefixes_of(
        program, schedule.plan, counts, networks=options.prefixes is not None, outputs=options.prefix_outputs
    )
    if schedule.unscheduled is not None or all(part.refit == "none" for part in schedule.plan.stacks):
        return found
    return replace(found, rest=RestOfLevel(data.fit, data.held_out))


def stems(prefixes: Prefixes | None) -> dict[str, str]:
    """What the files of each network are called, without their suffixes."""
    if prefixes is None:
        return {}
    named = {name: f"prefix_{count}" for name, count in prefixes.names.items() if prefixes.networks}
    return {**named, **({EVERY: EVERY_PREFIX} if prefixes.outputs else {})}


def other_products(prefixes: Prefixes | None, apart: Program | None) -> tuple[Other, ...]:
    """The networks that become files beside the product.

    Args:
        prefixes: that there are.
        apart: the product before its branches became wide operations; there are no prefixes without it.
    """
    if prefixes is None or apart is None:
        return ()
    source = placed(apart, CPU)
    return tuple(Other(name, stem, partial(prefixes.program, source, name)) for name, stem in stems(prefixes).items())


def written_prefixes(prefixes: Prefixes, program: Program, schedule: Schedule, built: Built) -> PrefixesWritten:
    """What is told of them."""
    suffixes = [PROGRAM.suffix, ONNX.suffix, *([] if built.sidecar is None else [ENGINE.suffix])]
    called = stems(prefixes)
    outputs = tuple(spec.name for spec in program.outputs)

    def network(name: str, branches: int, names: tuple[str, ...]) -> PrefixNetwork:
        files = tuple(f"{called[name]}{suffix}" for suffix in suffixes) if name in called else ()
        return PrefixNetwork(name, branches, files, names)

    each = tuple(network(name, count, outputs) for name, count in prefixes.names.items())
    every = None
    if prefixes.outputs:
        every = network(EVERY, max(prefixes.counts), prefixes.every_output)
    is_scheduled = schedule.unscheduled is None
    is_foretold = prefixes.rest is not None and prefixes.rest.helps
    return PrefixesWritten(prefixes.level, prefixes.branches, is_scheduled, each, every, is_foretold)
