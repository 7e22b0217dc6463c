"""Everything that the stages of a conversion found, with graphs and samples, and the result that is told of it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Generic

from parallelize.baselines.networks import SERIAL, Kept, Variants
from parallelize.baselines.prefixes import Prefixes
from parallelize.conversion.engines import Built
from parallelize.conversion.job import Job
from parallelize.conversion.measured import Measured
from parallelize.conversion.pace import Pace, Timed
from parallelize.conversion.prefix_files import written_prefixes
from parallelize.conversion.result import (
    DataUsed,
    FoundStack,
    Healing,
    Intervals,
    MeasuredNetwork,
    MetricUsed,
    Predicted,
    Result,
    Searched,
)
from parallelize.conversion.scheduling import Schedule
from parallelize.machine.device import described
from parallelize.machine.measured_on import this_machine
from parallelize.metrics import known_metrics
from parallelize.metrics.bootstrap import CONFIDENCE, RESAMPLES
from parallelize.models.acceptance import RANDOM_WARNING
from parallelize.models.network import Described

RELOADED = (
    "The networks are too large to be in memory at once: each was loaded anew for each of its turns of timing, so"
    " other things that ran meanwhile had more time to meet one of them alone."
)


@dataclass(frozen=True)
class Evidence(Generic[Kept]):
    """What every stage of a conversion found."""

    job: Job
    schedule: Schedule
    variants: Variants[Kept]
    measured: Measured
    built: Built
    prefixes: Prefixes | None = None

    def result(self) -> Result:
        """Without graphs and samples."""
        prepared, options = self.job.prepared, self.job.options
        variants, search = self.variants, self.schedule.search
        return Result(
            model=prepared.program.origin,
            measured_on=this_machine(options.threads),
            warnings=(
                *([RANDOM_WARNING] if prepared.random else []),
                *prepared.notes,
                *([RELOADED] if self.measured.reloaded else []),
            ),
            data=self._data(),
            device=described(self.job.device),
            metric=self._metric(),
            intervals=Intervals("BCa bootstrap over samples", CONFIDENCE, RESAMPLES),
            refit_allowed=options.refit,
            plan=variants.plan,
            unscheduled=self.schedule.unscheduled,
            deletion_plan=variants.deletion,
            stacks=self._stacks(),
            refused=prepared.stacks.refused,
            networks=tuple(self._network(network) for network in variants.items),
            refit=variants.levels,
            healing=self._healing(),
            passes=(*prepared.cleaning, *variants.records),
            search=()
            if search is None
            else tuple(Searched(c.depth_blocks, c.predicted, c.scores.plain()) for c in search.measured),
            forward_passes=0.0 if search is None else search.forward_passes,
            unfused_stacks={} if search is None else dict(search.unfused),
            backend=self.built.result(),
            predicted=self._predicted(),
            pace=self._pace(),
            prefixes=None
            if self.prefixes is None
            else written_prefixes(self.prefixes, prepared.program, self.schedule, self.built),
        )

    def _pace(self) -> Pace | None:
        """What was timed for the goal, and in the end of what was written, where that could be run."""
        pace, product = self.schedule.pace, self.variants.product
        if pace is None:
            return None
        times = {name: latency.median for name, latency in self.measured.latencies.items()}
        names = (SERIAL, product.name)
        if self.job.asked_for is not None:
            predicted = self._predicted()
            times = {} if predicted is None else dict(predicted.milliseconds)
        elif self.job.choice.builder is not None:
            times = {name: latency.median for name, latency in self.built.latencies.items()}
            names = ("serial", "rewrite")
        if not times:
            return pace
        return replace(pace, product=Timed(product.depth_blocks, *(times[name] for name in names)))

    def _data(self) -> DataUsed:
        split = self.job.prepared.data
        sizes = (len(split.fit), len(split.held_out), len(split.judge))
        return DataUsed(self.job.prepared.random, *sizes, batch=split.judge.fixed or 1)

    def _predicted(self) -> Predicted | None:
        """What the target would take for every network."""
        asked_for = self.job.asked_for
        if asked_for is None:
            return None
        target = asked_for.target
        return Predicted(target.gpu, asked_for.precision, target.error, target.error_of, self.measured.predicted)

    def _metric(self) -> MetricUsed:
        budget = self.schedule.budget
        return MetricUsed(self.job.metric.name, self.job.metric.meaning, None if budget is None else str(budget))

    def _stacks(self) -> tuple[FoundStack, ...]:
        return tuple(
            FoundStack(
                name=stack.name,
                terms=len(stack.terms),
                blocks=len(stack.blocks),
                layers=len(stack.blocks) * stack.layers,
                kinds=stack.summary(),
                behind=tuple(sorted(self.job.graph.order.predecessors(number))),
            )
            for number, stack in enumerate(self.job.prepared.stacks.stacks)
        )

    def _network(self, network: Described) -> MeasuredNetwork:
        """What was measured by every metric that there is for its outputs, with intervals."""
        metric, measured, scores = self.job.metric, self.measured, self.measured.scores[network.name]
        every = [m for m in {**known_metrics(), metric.name: metric}.values() if scores.has(m)]
        values = {m.name: value for m in every if (value := scores.value(m)) is not None}
        ends = {m.name: pair for m in every if (pair := scores.value_interval(m)) is not None}
        return MeasuredNetwork(
            name=network.name,
            depth_blocks=network.depth_blocks,
            depth_terms=network.depth_terms,
            parameters=network.parameters,
            critical_gemms=network.critical_gemms,
            scores=scores.plain(),
            errors={m.name: scores.error(m) for m in every},
            error_intervals={m.name: scores.interval(m) for m in every},
            values=values,
            value_intervals=ends,
            onnxruntime_ms=measured.latencies.get(network.name),
            onnx_against_graph=measured.comparisons.get(network.name),
        )

    def _healing(self) -> Healing | None:
        options, healed = self.job.options.heal, self.variants.healed
        if options is None or healed is None:
            return None
        names = [part.name for part in fields(Healing) if part.name != "options"]
        return Healing(options, **{name: getattr(healed, name) for name in names})
