"""Every pass on random residual networks: what the compiler says is the same is the same.

A case is a network and a schedule for each of its stacks. It is checked in float64 against the terms of the network
themselves, which know nothing of graphs; a share of the cases in float32 through ONNX Runtime as well.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.data.tensor_spec import TensorSpec
from parallelize.export.onnx import write_onnx
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.fusion.fuse_width import FuseWidth
from passes.graph.editing import clone, eliminate_dead_code
from passes.plan import Plan, StackPlan, serial
from passes.registry import PASSES
from passes.runner import Pass, PassRecord, run_passes
from passes.schedule.apply_plan import ApplyPlan, schedule
from passes.stacks.accounting import unaccounted
from passes.stacks.find import find_stacks
from tests.passes.models import relative_error, text, wrong_metadata
from tests.passes.schedules import form_plans
from tests.properties.drawing import networks
from tests.properties.random_convolutions import ChannelNorm, ConvolutionKind
from tests.properties.random_layers import ACTIVATIONS, LinearStyle, NormKind
from tests.properties.random_mixing import MixKind
from tests.properties.random_networks import Mask, NetworkSpec, Post, RandomNetwork, Scale, Tie
from tests.properties.random_operators import Einsum, Operator
from tests.properties.random_spellings import Spelling
from tests.properties.random_token_terms import Layout, MlpKind, PositionBias, Repeat

EXACT = 1e-10
SINGLE = 1e-4  # of the largest output, float32 in another order of summation
BATCHES = (1, 3, 4)  # 4 is also the number of tokens, and of channels in some
CHUNK = 25
SEEDS, MORE_SEEDS = range(3004, 3008), range(2000, 2080)  # 100 and 2,000 cases
QUICK = 3  # of the hundred, those that hold most kinds; the fast suite checks no others
EVERY = 8  # so many cases apart, one of the hundred is exported; of the 2,000 all are


@dataclass(frozen=True)
class Case:
    """A network and the schedules of its stacks."""

    network: NetworkSpec
    plans: tuple[StackPlan, ...]


@dataclass(frozen=True)
class Outcome:
    """What happened to a case."""

    case: Case
    fused: int
    exported: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any network with a schedule in a form that has a name, or with any schedule."""
    network = draw(networks())
    plans = [draw(form_plans(len(stage.terms), len(stage.blocks[0]))) for stage in network.stages]
    return Case(network, tuple(plans))


def for_cases(number: int, visit: Callable[[Case], None]) -> None:
    """Call `visit` with the CHUNK cases of a seed."""

    @seed(number)
    @settings(
        max_examples=CHUNK,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a case takes a second and is readable as drawn
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def visited(case: Case) -> None:
        visit(case)

    visited()


@functools.cache
def drawn() -> tuple[Case, ...]:
    """The hundred."""
    cases: list[Case] = []
    for number in SEEDS:
        for_cases(number, cases.append)
    return tuple(cases)


def check_cases(number: int, onnx_every: int) -> list[Outcome]:
    """Check the cases of a seed; every `onnx_every`-th of them through ONNX too."""
    outcomes: list[Outcome] = []
    for_cases(number, lambda case: outcomes.append(_check(case, exported=(len(outcomes) + 1) % onnx_every == 0)))
    return outcomes


def _check(case: Case, *, exported: bool) -> Outcome:
    network = case.network.build()
    assume(_is_tame(network, case.network))
    program = capture(network, case.network.inputs(3))
    cleaned = _cleaned(program.module, network)
    _check_stacks(cleaned, case.network)
    _check_serial(cleaned, case.network)
    fused, records = _compiled(cleaned, network, case)
    _check_idempotent(fused)
    if exported:
        _check_onnx(replace(program, module=fused), case.network)
    return Outcome(case, sum(len(record.matches) for record in records if record.name == FuseWidth.name), exported)


def _is_tame(network: RandomNetwork, spec: NetworkSpec) -> bool:
    """Whether outputs stay far below what float32 holds: squares of squares may overflow whatever a pass does."""
    with torch.no_grad():
        return all(float(network(*spec.inputs(batch)).abs().max()) < 1e6 for batch in BATCHES)


def _cleaned(graph: fx.GraphModule, network: RandomNetwork) -> fx.GraphModule:
    """The captured graph, which has the bits of the network, after the passes that come before the schedule."""
    _check_bits(graph, network, network.spec)
    names = list(PASSES)
    steps = [PASSES[name]() for name in names[: names.index(ApplyPlan.name)]]  # type: ignore[abstract]
    return run_passes(graph, steps, network.spec.inputs(3))[0]


def _check_bits(actual: nn.Module, expected: nn.Module, spec: NetworkSpec) -> None:
    for batch in BATCHES:
        inputs = spec.inputs(batch)
        with torch.no_grad():
            assert torch.equal(actual(*inputs), expected(*inputs)), f"batch {batch}"


def _check_stacks(graph: fx.GraphModule, spec: NetworkSpec) -> None:
    found = find_stacks(graph)
    expected = [len(stage.terms) for stage in spec.stages]
    assert [len(stack.terms) for stack in found.stacks] == expected, found.refused
    assert unaccounted(graph, found) == ()


def _check_serial(graph: fx.GraphModule, spec: NetworkSpec) -> None:
    rewritten = clone(graph)
    schedule(rewritten, Plan(tuple(serial(len(stage.terms)) for stage in spec.stages)))
    assert text(rewritten) == text(graph)
    _check_bits(rewritten, graph, spec)


def _compiled(
    graph: fx.GraphModule, network: RandomNetwork, case: Case
) -> tuple[fx.GraphModule, tuple[PassRecord, ...]]:
    """The graph after the schedule and all passes that follow it, each probed, the first and the last checked."""
    names = list(PASSES)
    after = [PASSES[name] for name in names[names.index(ApplyPlan.name) + 1 :]]
    later = [step() for step in after if step.exact and step.stage != "spread"]  # that is for several ranks
    steps: list[Pass] = [ApplyPlan(Plan(case.plans)), *later]

    def check(number: int, step: Pass, module: fx.GraphModule) -> None:
        if number in (0, len(steps) - 1):
            _check_numbers(module, network, case, step.name)

    return run_passes(graph, steps, case.network.inputs(3), check)


def _check_numbers(graph: fx.GraphModule, network: RandomNetwork, case: Case, after: str) -> None:
    for batch in BATCHES:
        inputs = case.network.inputs(batch)
        expected = network.reference(case.plans, *inputs)
        with torch.no_grad():
            assert relative_error(graph(*inputs), expected) < EXACT, f"{after}, batch {batch}"
            assert wrong_metadata(graph, *inputs) == [], f"{after}, batch {batch}"


def _check_idempotent(fused: fx.GraphModule) -> None:
    again = clone(fused)
    assert FuseWidth().apply(again).matches == ()
    eliminate_dead_code(again)
    assert text(again) == text(fused)


def _check_onnx(program: Program, spec: NetworkSpec) -> None:
    single = _single(program)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(single, path)
        session = OnnxRuntime(path, threads=1)
    for batch in BATCHES:
        inputs = [_float(value) for value in spec.inputs(batch)]
        (result,) = session(inputs)
        assert relative_error(result, single.module(*inputs)) < SINGLE, f"batch {batch}"


def _single(program: Program) -> Program:
    """The program in float32."""

    def cast(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, dtype=_float(torch.empty(0, dtype=spec.dtype)).dtype) for spec in specs)

    return replace(
        program,
        module=copy.deepcopy(program.module).float(),
        inputs=cast(program.inputs),
        outputs=cast(program.outputs),
    )


def _float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


KINDS = {
    "layout": Layout,
    "repeat": Repeat,
    "bias": PositionBias,
    "style": LinearStyle,
    "scale": Scale,
    "mask": Mask,
    "post": Post,
    "tie": Tie,
    "norm": ChannelNorm,
    "spelling": Spelling,
    "operator": Operator,
    "einsum": Einsum,
}


WANTED = (
    *(f"{field}={value!r}" for field, kind in KINDS.items() for value in get_args(kind)),
    *(f"kind={value!r}" for kind in (MlpKind, ConvolutionKind, NormKind, MixKind) for value in get_args(kind)),
    *(f"activation={name!r}" for name in ACTIVATIONS),
    *("ParallelSpec", "ConvNextSpec", "kv_heads=1", "causal=True", "rotary=True", "conditioned=True", "pieces=True"),
    "tap=1",
)


def _held(case: Case) -> set[str]:
    described = repr(case)
    return {words for words in WANTED if words in described}


def holding_most(cases: Sequence[Case], count: int) -> list[Case]:
    """So many of the cases, each the one that holds the most kinds for its size that none before it holds."""
    chosen: list[Case] = []
    missing = set(WANTED)
    sizes = {case: 4 + sum(len(stage.terms) for stage in case.network.stages) for case in cases}
    for _ in range(count):
        chosen.append(max(cases, key=lambda case: len(_held(case) & missing) / sizes[case]))
        missing -= _held(chosen[-1])
    return chosen


@pytest.mark.slow
def test_the_hundred_cases_hold_every_kind_of_term_and_layer_and_the_quick_ones_most_of_them() -> None:
    assert set(WANTED) == set().union(*map(_held, drawn()))
    assert len(set().union(*map(_held, holding_most(drawn(), QUICK)))) > 0.5 * len(WANTED)


def test_the_quick_cases_are_found_scheduled_and_fused_without_a_change_of_the_numbers() -> None:
    cases = [case for case in holding_most(drawn(), QUICK) if _is_tame(case.network.build(), case.network)]
    outcomes = [_check(case, exported=number == 0) for number, case in enumerate(cases)]
    assert len(outcomes) > QUICK // 2
    assert sum(outcome.fused > 0 for outcome in outcomes) > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", SEEDS)
def test_random_networks_are_found_scheduled_and_fused_without_a_change_of_the_numbers(number: int) -> None:
    outcomes = check_cases(number, EVERY)
    assert len(outcomes) == CHUNK
    assert sum(outcome.exported for outcome in outcomes) == CHUNK // EVERY
    assert sum(outcome.fused > 0 for outcome in outcomes) > CHUNK // 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", MORE_SEEDS)
def test_two_thousand_random_networks_keep_their_numbers_through_every_pass_and_onnx(number: int) -> None:
    outcomes = check_cases(number, onnx_every=1)
    assert [outcome.exported for outcome in outcomes] == [True] * CHUNK
