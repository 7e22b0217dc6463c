"""The networks that a conversion compares: serial, the rewrite in its stages, and deletion to the same depth.

Where nothing is scheduled there are two: the network as it was captured, and with its branches fused. Prefixes of the
product that are asked for come last.

Each network has wide weights of its own, so they are made one after another, and a caller who lets go of one before it
asks for the next never holds more than the serial network, the product and one other, and the product before fusion
where that is asked for. Large ones of the product lie on the disk, as those of the serial network do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from torch import fx

from parallelize.baselines.deletion import deletion_plan
from parallelize.baselines.prefixes import Prefixes
from parallelize.data import Samples
from parallelize.healing.heal import Healed
from parallelize.machine.mapped import let_go
from parallelize.metrics import Metric
from parallelize.models.network import Described, Network
from parallelize.models.on_disk import on_disk
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
Kept = TypeVar("Kept", bound=Described)


@dataclass(frozen=True)
class Made:
    """What is left when all networks of a comparison were made.

    Attributes:
        product: the network that a conversion is for.
        apart: the same network before its branches became wide operations, where that was asked for.
        deletion: the plan of the deletion; None where nothing was scheduled, so that there is none.
        records: what the passes did for the rewrite.
        levels: what the refits chose.
        healed: what a healing did; its module is that of the product.
    """

    product: Network
    apart: Program | None
    plan: Plan
    deletion: Plan | None
    records: tuple[PassRecord, ...]
    levels: tuple[LevelRefit, ...] = ()
    healed: Healed | None = None


@dataclass(frozen=True)
class Variants(Made, Generic[Kept]):
    """The networks of a comparison, or what was kept of each."""

    items: tuple[Kept, ...] = ()

    def __getitem__(self, name: str) -> Kept:
        return next(network for network in self.items if network.name == name)


Networks = Generator[Network, None, Made]  # one network after another, then what is left


def taken(networks: Networks, take: Callable[[Network], Kept]) -> Variants[Kept]:
    """Give each network to `take` when it is made; it goes again, and what that returns stays."""
    items: list[Kept] = []
    while True:
        try:
            network = next(networks)
        except StopIteration as end:
            return Variants(**{**vars(end.value), "items": tuple(items)})
        items.append(take(network))
        del network


def product_name(names: Iterable[str]) -> str:
    """Which of these networks a conversion is for.

    It is healed and refitted where each of them helps, else the rewrite as is. Where nothing is scheduled it is the
    network with its branches fused.
    """
    there = set(names)
    return next(name for name in PRODUCTS if name in there)


def fused_networks(
    program: Program, plan: Plan, held_out: Samples, prefixes: Prefixes | None = None, *, keeps_apart: bool = False
) -> Networks:
    """The network as it was captured, and with its branches fused: what there is where nothing is scheduled.

    Args:
        program: the captured model.
        plan: its serial plan.
        held_out: samples on which the fusion must change nothing.
        prefixes: that are made too.
        keeps_apart: whether the product before fusion stays.
    """
    graph = _graph(program)
    yield Network.of(SERIAL, program, graph.serial_plan, graph)
    fused, records = run_passes(program.module, FUSION, held_out.batch(4))
    product = Network.of(FUSED, replace(program, module=fused), plan, graph)
    yield product
    if prefixes is not None:
        yield from prefixes.made(program, plan, graph)
    return Made(product, program if keeps_apart else None, plan, None, records)


def each_network(
    program: Program,
    plan: Plan,
    fit: Samples,
    held_out: Samples,
    metric: Metric | str | None,
    refitted: Refitted | None = None,
    report: Report = lambda _: None,
    heal: Heal | None = None,
    prefixes: Prefixes | None = None,
    *,
    keeps_apart: bool = False,
) -> Networks:
    """Make every network of the comparison, one after another.

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
        prefixes: of the product that are made too.
        keeps_apart: whether the product before fusion stays; where prefixes are made it does until then.
    """
    teacher, graph, probe = program.module, _graph(program), held_out.batch(4)
    wants_refit = any(part.refit != "none" for part in plan.stacks)

    def made(name: str, module: fx.GraphModule, plan: Plan) -> Network:
        return Network.of(name, replace(program, module=module), plan, graph)

    def kept(module: fx.GraphModule) -> Program:
        return on_disk(replace(program, module=module), lambda what, _share: report(what))

    def lasting(name: str, module: fx.GraphModule) -> Network:
        return Network.of(name, kept(module), plan, graph)

    yield Network.of(SERIAL, program, graph.serial_plan, graph)
    scheduled, records = run_passes(teacher, [ApplyPlan(plan)], probe)
    needs_apart = keeps_apart or prefixes is not None
    apart = replace(program, module=scheduled) if needs_apart else None
    fused, fusion = run_passes(scheduled, FUSION, probe)
    records = (*records, *fusion)
    product = made(AS_IS, fused, plan) if wants_refit else lasting(AS_IS, fused)
    del fused
    let_go()
    yield product
    levels: tuple[LevelRefit, ...] = ()
    if wants_refit:
        del product
        report("refitting the rewrite")
        refitted = refitted or refit(teacher, plan, fit, held_out)
        yield made(UNFUSED, refitted.module, plan)
        apart = kept(refitted.module) if needs_apart else None
        fused, fusion = run_passes(refitted.module, FUSION, probe)
        records, levels = (*records[: -len(FUSION)], *fusion), refitted.levels
        product = lasting(REWRITE, fused)
        del fused
        let_go()
        yield product
    healed = None
    if heal is not None:
        healed = heal(refitted or refit(teacher, plan, fit, held_out))
        if healed.helped:
            del product
            apart = kept(healed.module) if needs_apart else None
            fused, _ = run_passes(healed.module, FUSION, probe)
            product = lasting(HEALED, fused)
            del fused
            let_go()
            yield product
        healed = replace(healed, module=product.module)
    del refitted
    report("deleting blocks to the same depth")
    deletion = deletion_plan(teacher, plan, fit, held_out, metric)
    yield made(DELETED, run_passes(teacher, [ApplyPlan(deletion)])[0], deletion)
    if wants_refit:
        report("refitting the deletion")
        deleted = refit(teacher, deletion, fit, held_out).module
        yield made(DELETED_REFITTED, run_passes(deleted, FUSION, probe)[0], deletion)
    if prefixes is not None and apart is not None:
        yield from prefixes.made(apart, plan, graph)
    return Made(product, apart, plan, deletion, records, levels, healed)


def _graph(program: Program) -> StackGraph:
    return stack_graph(find_stacks(program.module).stacks)
