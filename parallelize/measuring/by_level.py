"""Where two networks part: the states of their residual stacks, side by side, on the same inputs.

A state is told by how many terms of the serial stack have run before it. Two networks are compared where both have a
state of the same number:

    1. networks whose stacks have equal terms (number and kind): every state;
    2. a rewrite with its plan.json beside it: the states after levels that complete a prefix of the serial stack, as
       its plan says; what lies within a group of blocks exists in one of the two only;
    3. otherwise, where the stacks are as many: their first and last states.

Refused, each with its sentence: engines and compiled programs, whose values inside cannot be read; ONNX files that do
not say where their states are; another number of stacks; a plan that does not fit; states of different shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import isfinite, sqrt
from pathlib import Path

from torch import Tensor

from parallelize.backends.artefact import Artefact
from parallelize.backends.backend import ONNX, PROGRAM
from parallelize.backends.runner_options import RunnerOptions
from parallelize.export.state_names import StackStates
from parallelize.files.plan import read_plan
from parallelize.measuring.stack_states import States, onnx_states, program_states
from parallelize.models.prepare import captured
from passes.errors import ParallelizeError
from passes.plan import Level as PlanLevel
from passes.plan import Plan, StackPlan

Batches = Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]


@dataclass(frozen=True)
class Level:
    """One state that both networks have.

    Attributes:
        stack: its name in the reference.
        terms: how many terms of the serial stack have run.
        after: the kind and module of the last of them.
        error: |y - r| / |r| over all samples; infinite where a value is NaN or infinite.
    """

    stack: str
    terms: int
    after: str
    error: float

    def __str__(self) -> str:
        return f"{self.stack}: {self.after}"


@dataclass(frozen=True)
class LevelErrors:
    """The states of one network against the reference's.

    Attributes:
        label: of the network.
        levels: in the order in which they are computed.
        threshold: an error above which the networks have parted.
        note: why states were left out; empty where all were compared.
    """

    label: str
    levels: tuple[Level, ...]
    threshold: float
    note: str

    @property
    def first(self) -> Level | None:
        """The first state in which the two have parted."""
        return next((level for level in self.levels if not level.error <= self.threshold), None)


@dataclass(frozen=True, eq=False)
class Staged:
    """A network with the names of its states, one mapping for each stack: terms that have run -> value."""

    states: States
    plan: Plan | None
    stacks: tuple[StackStates, ...]
    prefixes: tuple[Mapping[int, str], ...]
    terms: tuple[int, ...]


def stage(artefact: Artefact, options: RunnerOptions) -> Staged:
    """Find the states of an artefact.

    Raises:
        ParallelizeError: its states cannot be read or told apart.
    """
    states = _states(artefact, options)
    if not states.stacks:
        raise ParallelizeError(f"{artefact.label} has no residual stack.", "Compare it without --by-level.")
    if artefact.plan is None:
        every = tuple(dict(enumerate(stack.states)) for stack in states.stacks)
        return Staged(states, None, states.stacks, every, tuple(len(stack.kinds) for stack in states.stacks))
    plan = read_plan(artefact.plan)
    stacks = _levels(states, plan)
    prefixes = tuple(_prefixes(part, stack) for part, stack in zip(plan.stacks, stacks, strict=True))
    return Staged(states, plan, stacks, prefixes, tuple(part.terms for part in plan.stacks))


def _states(artefact: Artefact, options: RunnerOptions) -> States:
    what = artefact.backend.hides or ("" if artefact.kind in (PROGRAM, ONNX) else artefact.kind.what)
    if what:
        raise ParallelizeError(
            f"{artefact.label} is {what}: the values inside cannot be read.",
            "Compare the program or the ONNX file that it was built from with --by-level.",
        )
    if artefact.kind == ONNX:
        return onnx_states(artefact.label, Path(str(artefact.source)), options.threads)
    return program_states(artefact.label, captured(options.loading(artefact.source)))


def _levels(states: States, plan: Plan) -> tuple[StackStates, ...]:
    """A rewrite's terms dealt out to the stacks of its plan: a level is one term, or the terms of its only chain.

    A rewrite may fall into other stacks than its model did, so that terms are counted through.
    """
    counts = [sum(_terms(level) for level in part.levels) for part in plan.stacks]
    terms = [(stack, place) for stack in states.stacks for place in range(len(stack.kinds))]
    found: list[StackStates] = []
    for count, end in zip(counts, accumulate(counts), strict=True):
        mine = terms[end - count : end]
        names = [(stack.states[place], stack.states[place + 1]) for stack, place in mine]
        if len(terms) != sum(counts) or any(a[1] != b[0] for a, b in pairwise(names)):
            raise ParallelizeError(
                f"The levels of {states.label} cannot be told apart: its graph has {len(terms)} terms,"
                f" its plan.json {sum(counts)} levels.",
                "Compare it without --by-level.",
            )
        found.append(
            StackStates(
                mine[0][0].name if mine else "",
                tuple(stack.kinds[place] for stack, place in mine),
                tuple(stack.modules[place] for stack, place in mine),
                (names[0][0], *(after for _, after in names)) if names else (),
            )
        )
    return tuple(found)


def _terms(level: PlanLevel) -> int:
    """Residual adds to the state that a level leaves in a rewrite: its only chain's, or the one of all chains."""
    return level.depth if len(level.chains) == 1 else 1


def _prefixes(part: StackPlan, stack: StackStates) -> Mapping[int, str]:
    ends = list(accumulate(_terms(level) for level in part.levels))
    after = {ran: stack.states[ends[number]] for number, ran in part.complete_prefixes()}
    return {0: stack.states[0], **after} if stack.states else {}


@dataclass(frozen=True)
class _Pair:
    """A state that both have."""

    stack: str
    terms: int
    after: str
    reference: str
    ours: str


def level_errors(reference: Staged, ours: Staged, batches: Batches, threshold: float) -> LevelErrors:
    """Compare the states that two networks have in common.

    Args:
        reference: the network that is right.
        ours: the other one.
        batches: inputs in the order of each of the two.
        threshold: of the relative L2 error.

    Raises:
        ParallelizeError: the two have no states in common, or of different shapes.
    """
    pairs, note = _common(reference, ours)
    read = reference.states.reader([pair.reference for pair in pairs])
    read_ours = ours.states.reader([pair.ours for pair in pairs])
    sums = [[0.0, 0.0] for _ in pairs]
    for inputs, our_inputs in batches:
        for pair, total, r, y in zip(pairs, sums, read(inputs), read_ours(our_inputs), strict=True):
            if r.shape != y.shape:
                shapes = ["x".join(map(str, value.shape)) for value in (y, r)]
                raise ParallelizeError(
                    f"The state {pair.stack}: {pair.after} of {ours.states.label} is {shapes[0]}, the reference's"
                    f" {shapes[1]}.",
                    "Compare the two without --by-level.",
                )
            total[0] += float((y.double() - r.double()).square().sum())
            total[1] += float(r.double().square().sum())
    levels = (Level(p.stack, p.terms, p.after, _relative(*t)) for p, t in zip(pairs, sums, strict=True))
    return LevelErrors(ours.states.label, tuple(levels), threshold, note)


def _relative(noise: float, signal: float) -> float:
    if not isfinite(noise) or not isfinite(signal):
        return float("inf")
    return 0.0 if noise == 0 else sqrt(noise / signal) if signal > 0 else float("inf")


def _common(reference: Staged, ours: Staged) -> tuple[list[_Pair], str]:
    """The states that both have, and what was left out."""
    label = ours.states.label
    if len(reference.terms) != len(ours.terms):
        raise ParallelizeError(
            f"{label} has {len(ours.terms)} residual stacks, {reference.states.label} has {len(reference.terms)}.",
            "Name a directory of `parallelize convert`, whose plan.json tells what its states are, or leave out"
            " --by-level.",
        )
    pairs: list[_Pair] = []
    for place, stack in enumerate(reference.stacks):
        a, b = _numbered(reference, ours, place)
        shared = sorted(a.keys() & b.keys())
        pairs.extend(_Pair(stack.name, n, _after(reference, ours, place, n), a[n], b[n]) for n in shared)
    if not all(_corresponds(reference, ours, place) for place in range(len(reference.stacks))):
        return pairs, f"The stacks of {label} have other terms: only their first and last states are compared."
    every = max(sum(len(stack.states) for stack in staged.stacks) for staged in (reference, ours))
    if len(pairs) < every:
        return pairs, f"States within a group of blocks exist in one of the two only: {len(pairs)} of {every} compared."
    return pairs, ""


def _numbered(reference: Staged, ours: Staged, place: int) -> tuple[Mapping[int, str], Mapping[int, str]]:
    """The states of one stack in both, by numbers that mean the same."""
    if _same_plan(reference, ours):
        return _states_by_level(reference, place), _states_by_level(ours, place)
    found = (reference.prefixes[place], ours.prefixes[place])
    if _corresponds(reference, ours, place):
        return found
    return _ends(found[0]), _ends(found[1])


def _states_by_level(staged: Staged, place: int) -> Mapping[int, str]:
    return dict(enumerate(staged.stacks[place].states))


def _ends(states: Mapping[int, str]) -> Mapping[int, str]:
    return {0: states[0], 1: states[max(states)]} if states else {}


def _same_plan(reference: Staged, ours: Staged) -> bool:
    return reference.plan is not None and ours.plan is not None and reference.plan.stacks == ours.plan.stacks


def _corresponds(reference: Staged, ours: Staged, place: int) -> bool:
    """Whether the numbers of terms mean the same in both; kinds tell where neither has been rewritten."""
    if reference.terms[place] != ours.terms[place]:
        if reference.plan is not None or ours.plan is not None:
            planned, other = (ours, reference) if ours.plan is not None else (reference, ours)
            raise ParallelizeError(
                f"The plan.json of {planned.states.label} is for {planned.terms[place]} terms,"
                f" {other.states.label} has {other.terms[place]}.",
                "Compare it with the model that it was made from.",
            )
        return False
    if reference.plan is None and ours.plan is None:
        return reference.stacks[place].kinds == ours.stacks[place].kinds
    return True


def _after(reference: Staged, ours: Staged, place: int, number: int) -> str:
    """What ends in a state, in words."""
    if number == 0:
        return "entry"
    if not _corresponds(reference, ours, place):
        return "exit"
    if _same_plan(reference, ours):
        return f"after level {number}"
    if reference.plan is not None:
        return f"after {number} terms"
    stack = reference.stacks[place]
    module = stack.modules[number - 1]
    return f"after term {number} ({stack.kinds[number - 1]}{f', {module}' if module else ''})"
