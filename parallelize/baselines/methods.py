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

from parallelize.baselines.block_deletion import (
    GREEDY_SAMPLES,
    Kept,
    deletion,
    first_of_each_group,
    least_costly,
    most_influential,
)
from parallelize.baselines.branch_mean import averaged
from parallelize.baselines.depths import Depths, wanted_depths
from parallelize.baselines.linear_maps import Ranges, best_maps, replaced
from parallelize.baselines.ranges import CQIL, LP, PAINTERS, RangeMethod, best_ranges
from parallelize.baselines.trial import CHOICE_SAMPLES, Trial
from parallelize.data import Samples
from parallelize.metrics import Metric
from parallelize.refitting.refit import refit
from passes.errors import ParallelizeError
from passes.plan import Plan, Refit
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import Stack, find_stacks

Report = Callable[[str], None]


@dataclass(frozen=True)
class Baseline:
    """A network that a method of the literature makes of the teacher.

    Attributes:
        name: the method's name; equal for the network as is and the refitted one.
        citation: where the method is published; None for a way that no paper describes.
        module: the network, its branches side by side.
        depth: blocks on the critical path of its stacks; a linear map counts for none.
        strength: the refit that the network got, "none" as published.
        plan: the schedule, None where the network is no schedule of the teacher's terms. Where branches are averaged
            it says which.
        replaced: for each stack the first and last blocks of the ranges that a linear map replaces.
    """

    name: str
    citation: str | None
    module: fx.GraphModule
    depth: int
    strength: Refit = "none"
    plan: Plan | None = None
    replaced: tuple[Ranges, ...] = ()


@dataclass(frozen=True)
class _Task:
    """What every method is given."""

    teacher: fx.GraphModule
    stacks: tuple[Stack, ...]
    target: int | Plan
    depths: Depths
    fit: Samples
    held_out: Samples
    metric: Metric | str
    refits: dict[Plan, fx.GraphModule] = field(default_factory=dict)

    def refitted(self, plan: Plan) -> fx.GraphModule:
        """The teacher rewritten by a plan and refitted; methods that end in one plan share it."""
        if plan not in self.refits:
            self.refits[plan] = refit(self.teacher, plan, self.fit, self.held_out).module
        return self.refits[plan]

    def trial(self, samples: int = CHOICE_SAMPLES) -> Trial:
        """Measures choices, on the first of the held-out samples."""
        return Trial(self.teacher, self.held_out.head(samples), self.metric)


@dataclass(frozen=True)
class _Network:
    """What a method made; see `Baseline`."""

    module: fx.GraphModule
    plan: Plan | None
    replaced: tuple[Ranges, ...] = ()


@dataclass(frozen=True)
class _Method:
    """A published method; `make` returns None where it cannot reach the depth."""

    name: str
    citation: str | None
    make: Callable[[_Task], _Network | None]
    takes_refit: bool = True


def baselines(
    teacher: fx.GraphModule,
    target: int | Plan,
    fit: Samples,
    held_out: Samples,
    metric: Metric | str,
    strength: Refit = "none",
    report: Report = lambda _: None,
) -> tuple[Baseline, ...]:
    """Every method at one depth; those that cannot reach it (pairs stop at half of a model) are left out.

    Args:
        teacher: the captured graph; it is not changed.
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
    stacks = find_stacks(teacher).stacks
    if not stacks:
        raise ParallelizeError(
            "The model has no residual stack, so there are no blocks to delete or to replace.",
            "See `parallelize inspect MODEL` for the residual adds that were left out.",
        )
    task = _Task(teacher, stacks, target, wanted_depths(stacks, target), fit, held_out, metric)
    return tuple(made for method in _METHODS for made in _networks(method, task, strength, report))


def _networks(method: _Method, task: _Task, strength: Refit, report: Report) -> Iterator[Baseline]:
    """The network of one method as published, and refitted."""
    report(method.name)
    made = method.make(task)
    if made is None:
        return
    plan = made.plan
    if plan is not None and isinstance(task.target, Plan):
        plan = replace(plan, seed=task.target.seed)
    as_is = Baseline(method.name, method.citation, made.module, task.depths.total, "none", plan, made.replaced)
    yield as_is
    if plan is None or strength == "none" or not method.takes_refit:
        return
    report(f"{method.name}, refitted")
    plan = plan.with_refit(strength)
    yield replace(as_is, module=task.refitted(plan), strength=strength, plan=plan)


def _mean(task: _Task) -> _Network | None:
    """The mean over the branches of the given plan, or over one range where only a depth is given."""
    if isinstance(task.target, Plan):
        plan: Plan | None = task.target.with_refit("none")
    else:
        plan = best_ranges(PAINTERS, task.stacks, task.depths, task.trial())
    return None if plan is None else _Network(averaged(task.teacher, plan), plan)


def _range(method: RangeMethod, task: _Task) -> _Network | None:
    return _scheduled(task, best_ranges(method, task.stacks, task.depths, task.trial()))


def _first(task: _Task) -> _Network | None:
    if not isinstance(task.target, Plan):
        return None
    return _deleted(task, first_of_each_group(task.stacks, task.target, task.depths))


def _influence(task: _Task) -> _Network | None:
    few = task.held_out.head(CHOICE_SAMPLES)
    return _deleted(task, most_influential(task.teacher, task.stacks, task.depths, few))


def _greedy(task: _Task) -> _Network | None:
    return _deleted(task, least_costly(task.stacks, task.depths, task.trial(GREEDY_SAMPLES)))


def _linear(task: _Task) -> _Network | None:
    ranges = best_maps(task.stacks, task.depths, task.fit.head(CHOICE_SAMPLES), task.trial())
    if ranges is None:
        return None
    return _Network(replaced(task.teacher, ranges, task.fit, task.held_out), None, ranges)


def _deleted(task: _Task, kept: Kept | None) -> _Network | None:
    return _scheduled(task, None if kept is None else deletion(task.stacks, kept))


def _scheduled(task: _Task, plan: Plan | None) -> _Network | None:
    return None if plan is None else _Network(rewrite(task.teacher, plan)[0], plan)


_METHODS = (
    _Method("mean of branches", "Transformer Layers as Painters, arXiv 2407.09298", _mean, takes_refit=False),
    _Method("CQIL", "arXiv 2404.06709", partial(_range, CQIL)),
    _Method("LP", "arXiv 2502.02790", partial(_range, LP)),
    _Method("first of each group", None, _first),
    _Method("ShortGPT", "arXiv 2403.03853", _influence),
    _Method("SLEB", "arXiv 2402.09025", _greedy),
    _Method("TOAST", "arXiv 2410.04941", _linear),
)
