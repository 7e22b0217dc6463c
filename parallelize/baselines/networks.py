"""The networks that a conversion compares: serial, the rewrite in its stages, and deletion to the same depth.

Where nothing is scheduled there are two: the network as it was captured, and with its branches fused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from torch import fx

from parallelize.baselines.deletion import deletion_plan
from parallelize.data import Samples
from parallelize.healing.heal import Healed
from parallelize.metrics import Metric
from parallelize.models.network import Network
from parallelize.models.program import Program
from parallelize.refitting.records import LevelRefit, Refitted
from parallelize.refitting.refit import refit
from passes.plan import Plan
from passes.registry import FUSION
from passes.runner import PassRecord, run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.stacks.find import find_stacks
from passes.stacks.stack_graph import StackGraph, stack_graph

SERIAL = "serial"
FUSED = "fused"
AS_IS = "rewrite, as is"
UNFUSED = "rewrite, unfused"
REWRITE = "rewrite, refitted"
HEALED = "rewrite, healed"
DELETED = "deletion, as is"
DELETED_REFITTED = "deletion, refitted"

PRODUCTS = (HEALED, REWRITE, AS_IS, FUSED)  # what a conversion may be for, the first that there is

Report = Callable[[str], None]
Heal = Callable[[Refitted], Healed]


@dataclass(frozen=True)
class Variants:
    """All networks of the comparison, what the passes did for the rewrite, what the refits chose and a healing did.

    Attributes:
        deletion: the plan of the deletion; None where nothing was scheduled, so that there is none.
    """

    items: tuple[Network, ...]
    plan: Plan
    deletion: Plan | None
    records: tuple[PassRecord, ...]
    levels: tuple[LevelRefit, ...] = ()
    healed: Healed | None = None

    def __getitem__(self, name: str) -> Network:
        return next(network for network in self.items if network.name == name)

    @property
    def product(self) -> Network:
        """The network that a conversion is for."""
        return self[product_name(network.name for network in self.items)]


def product_name(names: Iterable[str]) -> str:
    """Which of these networks a conversion is for.

    It is healed and refitted where each of them helps, else the rewrite as is. Where nothing is scheduled it is the
    network with its branches fused.
    """
    there = set(names)
    return next(name for name in PRODUCTS if name in there)


def fused_variants(program: Program, plan: Plan, held_out: Samples) -> Variants:
    """The network as it was captured, and with its branches fused: what there is where nothing is scheduled.

    Args:
        program: the captured model.
        plan: its serial plan.
        held_out: samples on which the fusion must change nothing.
    """
    fused, records = run_passes(program.module, FUSION, held_out.batch(4))
    graph = _graph(program)
    serial = Network.of(SERIAL, program, graph.serial_plan, graph)
    return Variants((serial, Network.of(FUSED, replace(program, module=fused), plan, graph)), plan, None, records)


def build_variants(
    program: Program,
    plan: Plan,
    fit: Samples,
    held_out: Samples,
    metric: Metric | str | None,
    refitted: Refitted | None = None,
    report: Report = lambda _: None,
    heal: Heal | None = None,
) -> Variants:
    """Build every network of the comparison.

    Args:
        program: the captured model.
        plan: schedule and strength of refit; without a refit the refitted rows are left out.
        fit: samples that refits are fitted on.
        held_out: samples that refits are chosen on.
        metric: what the choice of blocks to delete minimises on `held_out`; None where that is no data, so that the
            first block of each group stays.
        refitted: the rewrite where a search has made it already.
        report: told what is being done.
        heal: heals the rewrite; the healed row is there where that helped.
    """
    teacher, graph = program.module, _graph(program)

    def add(name: str, module: fx.GraphModule, plan: Plan) -> None:
        networks.append(Network.of(name, replace(program, module=module), plan, graph))

    probe = held_out.batch(4)
    as_is, records = run_passes(teacher, [ApplyPlan(plan), *FUSION], probe)
    networks = [Network.of(SERIAL, program, graph.serial_plan, graph)]
    add(AS_IS, as_is, plan)
    levels: tuple[LevelRefit, ...] = ()
    wants_refit = any(part.refit != "none" for part in plan.stacks)
    if wants_refit:
        report("refitting the rewrite")
        refitted = refitted or refit(teacher, plan, fit, held_out)
        fused, fusion = run_passes(refitted.module, FUSION, probe)
        records, levels = (*records[: -len(FUSION)], *fusion), refitted.levels
        add(UNFUSED, refitted.module, plan)
        add(REWRITE, fused, plan)
    healed = None
    if heal is not None:
        healed = heal(refitted or refit(teacher, plan, fit, held_out))
        if healed.helped:
            fused, _ = run_passes(healed.module, FUSION, probe)
            add(HEALED, fused, plan)
    report("deleting blocks to the same depth")
    deletion = deletion_plan(teacher, plan, fit, held_out, metric)
    deleted, _ = run_passes(teacher, [ApplyPlan(deletion)])
    add(DELETED, deleted, deletion)
    if wants_refit:
        report("refitting the deletion")
        deleted, _ = run_passes(refit(teacher, deletion, fit, held_out).module, FUSION, probe)
        add(DELETED_REFITTED, deleted, deletion)
    return Variants(tuple(networks), plan, deletion, records, levels, healed)


def _graph(program: Program) -> StackGraph:
    return stack_graph(find_stacks(program.module).stacks)
