"""The methods of the literature at the depth of a rewrite, all by the same code and on the same samples.

Each method picks what it does to the blocks by the error on held-out samples. A method that ends in a schedule also
gets the refit of the rewrite. The mean of branches has no refit: that would solve for the out-projections again, and
with them for the factor 1/g that is all of the method. A linear map is a closed-form fit already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from torch import fx

from parallelize.baselines.block_deletion import Kept, deletion, first_of_each_group, most_influential
from parallelize.baselines.depths import Depths, wanted_depths
from parallelize.baselines.greedy import GREEDY_SAMPLES, least_costly
from parallelize.baselines.linear_maps import Ranges, best_maps, replaced
from parallelize.baselines.ranges import CQIL, LP, PAINTERS, RangeMethod, best_ranges
from parallelize.baselines.trial import CHOICE_SAMPLES, Trial
from parallelize.data import Samples
from parallelize.metrics import Metric
from parallelize.models.network import Network
from parallelize.models.program import Program
from parallelize.refitting.refit import refit
from passes.errors import ParallelizeError
from passes.plan import Plan, Refit
from passes.schedule.apply_plan import rewrite
from passes.schedule.average_branches import averaged
from passes.stacks.find import Stack, find_stacks

Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Baseline(Network):
    """A network that a method of the literature makes of the teacher, its branches side by side.

    Its name is that of the method, for the network as is and the refitted one. A linear map counts for no depth. Where
    branches are averaged, the plan says which.

    Attributes:
        citation: where the method is published; None for a way that no paper describes.
        strength: the refit that the network got, "none" as published.
        replaced: for each stack the first and last blocks of the ranges that a linear map replaces.
    """

    citation: str | None
    strength: Refit = "none"
    replaced: tuple[Ranges, ...] = ()


Choice = Plan | tuple[Ranges, ...]  # a schedule, or for each stack the ranges of blocks that linear maps replace


@dataclass(frozen=True)
class _Task:
    """What every method is given."""

    program: Program
    stacks: tuple[Stack, ...]
    target: int | Plan
    depths: Depths
    fit: Samples
    held_out: Samples
    metric: Metric | str
    refits: dict[Plan, fx.GraphModule] = field(default_factory=dict)

    @property
    def teacher(self) -> fx.GraphModule:
        return self.program.module

    def refitted(self, plan: Plan) -> fx.GraphModule:
        """The teacher rewritten by a plan and refitted; methods that end in one plan share it."""
        if plan not in self.refits:
            self.refits[plan] = refit(self.teacher, plan, self.fit, self.held_out).module
        return self.refits[plan]

    def trial(self, samples: int = CHOICE_SAMPLES) -> Trial:
        """Measures choices, on the first of the held-out samples."""
        return Trial(self.teacher, self.held_out.head(samples), self.metric)


@dataclass(frozen=True)
class _Method:
    """A published method.

    Attributes:
        choose: what it does to the blocks; None where it cannot reach the depth.
        is_mean: whether it averages branches.
    """

    name: str
    citation: str | None
    choose: Callable[[_Task], Choice | None]
    is_mean: bool = False


def baselines(
    program: Program,
    target: int | Plan,
    fit: Samples,
    held_out: Samples,
    metric: Metric | str,
    strength: Refit = "none",
    report: Report = lambda _: None,
) -> tuple[Baseline, ...]:
    """Every method at one depth; those that cannot reach it (pairs stop at half of a model) are left out.

    Args:
        program: the captured model; it is not changed.
        target: the depth in blocks of all stacks together, which they share as each method finds best; or a plan, so
            that each stack is as deep as there, rounded up, and the mean of branches runs just this plan.
        fit: samples that refits and linear maps are fitted on.
        held_out: samples that choose ranges, blocks and ridges; they are never fitted and must judge nothing else.
        metric: what the choices minimise.
        strength: the refit of the rewrite, which methods that end in a schedule get as a second network.
        report: told which method is at work.

    Raises:
        ParallelizeError: no stacks, a depth that is none of the model's, or a plan for another model.
    """
    stacks = find_stacks(program.module).stacks
    if not stacks:
        raise ParallelizeError(
            "The model has no residual stack, so there are no blocks to delete or to replace.",
            "See `parallelize inspect MODEL` for the residual adds that were left out.",
        )
    task = _Task(program, stacks, target, wanted_depths(stacks, target), fit, held_out, metric)
    return tuple(made for method in _METHODS for made in _networks(method, task, strength, report))


def _networks(method: _Method, task: _Task, strength: Refit, report: Report) -> Iterator[Baseline]:
    """The network of one method as published, and refitted."""
    report(method.name)
    room = task.fit.room
    chosen = room.fitting(lambda: method.choose(task))
    if chosen is None:
        return
    if not isinstance(chosen, Plan):
        yield room.fitting(partial(_mapped, method, task, chosen))
        return
    plan = replace(chosen, seed=task.target.seed) if isinstance(task.target, Plan) else chosen
    module = averaged(task.teacher, plan) if method.is_mean else rewrite(task.teacher, plan)[0]
    yield _scheduled(method, task, plan, module)
    if strength != "none" and not method.is_mean:
        report(f"{method.name}, refitted")
        plan = plan.with_refit(strength)
        yield replace(_scheduled(method, task, plan, task.refitted(plan)), strength=strength)


def _scheduled(method: _Method, task: _Task, plan: Plan, module: fx.GraphModule) -> Baseline:
    program, graph = replace(task.program, module=module), task.depths.graph
    return Baseline(method.name, program, plan, graph.terms(plan), graph.blocks(plan), method.citation)


def _mapped(method: _Method, task: _Task, ranges: tuple[Ranges, ...]) -> Baseline:
    """The network whose ranges of blocks are linear maps, which count for no depth."""
    program = replace(task.program, module=replaced(task.teacher, ranges, task.fit, task.held_out))
    graph = task.depths.graph
    pairs = list(zip(graph.stacks, ranges, strict=True))
    blocks = [len(stack.blocks) - sum(last - first + 1 for first, last in gone) for stack, gone in pairs]
    terms = [count * stack.period for count, (stack, _) in zip(blocks, pairs, strict=True)]
    depths = graph.longest(terms), graph.longest(blocks)
    return Baseline(method.name, program, None, *depths, method.citation, replaced=ranges)


def _mean(task: _Task) -> Plan | None:
    """The given plan, over whose branches the mean is taken, or one range where only a depth is given."""
    if isinstance(task.target, Plan):
        return task.target.with_refit("none")
    return best_ranges(PAINTERS, task.stacks, task.depths, task.trial())


def _range(method: RangeMethod, task: _Task) -> Plan | None:
    return best_ranges(method, task.stacks, task.depths, task.trial())


def _first(task: _Task) -> Plan | None:
    if not isinstance(task.target, Plan):
        return None
    return _deletion(task, first_of_each_group(task.stacks, task.target, task.depths))


def _influence(task: _Task) -> Plan | None:
    few = task.held_out.head(CHOICE_SAMPLES)
    return _deletion(task, most_influential(task.teacher, task.stacks, task.depths, few))


def _greedy(task: _Task) -> Plan | None:
    return _deletion(task, least_costly(task.stacks, task.depths, task.trial(GREEDY_SAMPLES)))


def _linear(task: _Task) -> tuple[Ranges, ...] | None:
    return best_maps(task.stacks, task.depths, task.fit.head(CHOICE_SAMPLES), task.trial())


def _deletion(task: _Task, kept: Kept | None) -> Plan | None:
    return None if kept is None else deletion(task.stacks, kept)


_METHODS = (
    _Method("mean of branches", "Transformer Layers as Painters, arXiv 2407.09298", _mean, is_mean=True),
    _Method("CQIL", "arXiv 2404.06709", partial(_range, CQIL)),
    _Method("LP", "arXiv 2502.02790", partial(_range, LP)),
    _Method("first of each group", None, _first),
    _Method("ShortGPT", "arXiv 2403.03853", _influence),
    _Method("SLEB", "arXiv 2402.09025", _greedy),
    _Method("TOAST", "arXiv 2410.04941", _linear),
)
