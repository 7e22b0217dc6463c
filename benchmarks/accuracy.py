"""What a depth costs in accuracy on real pretrained models, beside every rival at the same depth.

    python benchmarks/accuracy.py [--tasks fashion,minilm,...] [--depths 6,4,3] [--heal SECONDS] [--refit-samples N]
                                  [--no-rivals] [--quick]

For each task (benchmarks/tasks) and depth: the planner's schedule, as is, refitted without a gradient step, and healed;
the methods of the literature, as published and with the same refit; the best deletion healed for the same time. Plans
are chosen and refits fitted on calibration samples; every figure is of test samples that did neither, with its 95 %
interval. What is measured is kept in benchmarks/results/accuracy.json after each network, and a second call goes on
from there. Writes docs/results.md. `--quick` takes few samples of the shipped model, to try the script.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tasks are beside this script, the packages are those of this checkout

from benchmarks.tasks import TASKS, Task  # noqa: E402
from benchmarks.tasks.page import write_page  # noqa: E402
from parallelize.baselines import baselines  # noqa: E402
from parallelize.baselines.deletion import deletion_plan  # noqa: E402
from parallelize.data import Samples  # noqa: E402
from parallelize.data.split import split  # noqa: E402
from parallelize.files.whole_file import output_file  # noqa: E402
from parallelize.healing.heal import heal  # noqa: E402
from parallelize.healing.options import HealOptions  # noqa: E402
from parallelize.machine.measured_on import machine  # noqa: E402
from parallelize.metrics import Judge  # noqa: E402
from parallelize.models.clean import clean  # noqa: E402
from parallelize.planning.options import PlannerOptions  # noqa: E402
from parallelize.planning.planner import Planner  # noqa: E402
from parallelize.refitting.records import Refitted  # noqa: E402
from parallelize.refitting.refit import refit  # noqa: E402
from passes.plan import Plan  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
MEMORY = ROOT / "benchmarks" / ".cache" / "searches"


@dataclass(frozen=True)
class Setting:
    """How a task is measured.

    Attributes:
        metric: what plans minimise on calibration samples, which have no labels.
        samples: calibration samples that plans and refits use, a fifth of them held out; healing trains on the others
            as well.
        depths: that are measured where none are named.
        batch_size: of the healing.
        refine: neighbours of the best schedule of a depth that are measured as whole networks.
        longest_group: blocks that run side by side at most; None leaves it to the planner.
    """

    metric: str
    samples: int
    depths: tuple[int, ...]
    batch_size: int
    refine: int = 0
    longest_group: int | None = None


SETTINGS = {
    "fashion": Setting("kl", 12_000, (6, 4, 3, 2, 1), 64, 6),
    "minilm": Setting("cosine", 1_200, (5, 3, 2), 16),
    "rxnfp": Setting("kl", 800, (8, 6, 3), 16),
    "smollm": Setting("kl", 40, (26, 22), 2, longest_group=2),
}
QUICK = Setting("kl", 300, (3,), 64)


class Benchmark:
    """One task: its model, its data, and what was measured of it so far."""

    def __init__(self, task: Task, setting: Setting, results: dict, arguments: argparse.Namespace) -> None:
        self.task, self.setting, self.results, self.arguments = task, setting, results, arguments
        self.program, _ = clean(task.program, next(iter(task.calibration.batches(2))))
        test = task.test.head(500) if arguments.quick else task.test
        self.data = split(task.calibration.head(setting.samples), test, 0)
        more = arguments.refit_samples
        self.fit = self._unseen_by_choice(more) if more else self.data.fit
        self.refitted = f"refitted on {more:,}" if more else "refitted"
        self.judge = Judge(self.program.module, test, task.metric)
        memory = MEMORY / f"{task.name}-{setting.samples}-{setting.metric}.json"
        memory.parent.mkdir(parents=True, exist_ok=True)
        options = PlannerOptions(longest_group=setting.longest_group, memory=memory, refine=setting.refine)
        self.planner = Planner(self.program, self.data.fit, self.data.held_out, setting.metric, options, progress=say)

    def run(self, depth: int) -> None:
        """Measure every network of one depth that was not measured before."""
        row = self.results.setdefault(str(depth), {})
        plan, refitted = self._rewrite(depth, row)
        if "rewrite, as is" not in row:
            self._record(row, "rewrite, as is", self._refitted(plan.with_refit("none")).module, plan)
        if f"rewrite, {self.refitted}" not in row:
            refitted = refitted or self._refitted(plan)
            self._record(row, f"rewrite, {self.refitted}", refitted.module, plan)
        if self.arguments.heal and self._healed("rewrite") not in row:
            self._record(row, self._healed("rewrite"), self._heal(refitted or self._refitted(plan), plan), plan)
        if self.arguments.no_rivals:
            return
        if f"SLEB, {self.refitted}" not in row:
            for name, module, its_plan in self._rivals(plan):
                self._record(row, name, module, its_plan)
        if self.arguments.heal and self._healed("deletion") not in row:
            rival = deletion_plan(
                self.program.module, plan, self.data.fit, self.data.held_out, self.setting.metric
            ).with_refit("full")
            self._record(row, self._healed("deletion"), self._heal(self._refitted(rival), rival), rival)

    def _rewrite(self, depth: int, row: dict) -> tuple[Plan, Refitted | None]:
        """The plan of an earlier call, or the planner's with the network that it measured."""
        if "rewrite, refitted" in row:
            return Plan.from_json(json.dumps(row["rewrite, refitted"]["plan"])), None
        found = self.planner.measure(depth)
        plan = found.plan.with_refit("full")
        return plan, found.refitted if found.plan == plan and self.fit is self.data.fit else None

    def _refitted(self, plan: Plan) -> Refitted:
        say(f"refitting {sum(part.depth for part in plan.stacks)} terms", 0, 1)
        return refit(self.program.module, plan, self.fit, self.data.held_out)

    def _rivals(self, plan: Plan) -> Iterator[tuple[str, fx.GraphModule, Plan | None]]:
        made = baselines(
            self.program,
            plan,
            self.fit,
            self.data.held_out,
            self.setting.metric,
            "full",
            lambda name: say(name, 0, 1),
        )
        for rival in made:
            yield f"{rival.name}, {'as is' if rival.strength == 'none' else self.refitted}", rival.module, rival.plan

    def _healed(self, what: str) -> str:
        return f"{what}, healed {self.arguments.heal:g} s"

    def _heal(self, refitted: Refitted, plan: Plan) -> fx.GraphModule:
        options = HealOptions(time_limit=self.arguments.heal, batch_size=self.setting.batch_size)
        say(f"healing for {self.arguments.heal:g} s", 0, 1)
        unseen = self._unseen_by_choice(len(self.task.calibration))
        healed = heal(
            refitted,
            self.program.module,
            plan,
            unseen,
            self._few_held_out(),
            options,
            logits=self.planner.metric.reads_logits,
        )
        print(f"    {healed.steps} steps, {healed.ending}: {healed.before:.4f} -> {healed.after:.4f}", flush=True)
        return healed.module

    def _unseen_by_choice(self, count: int) -> Samples:
        """What the search fits on, and of the calibration samples that it left up to `count` in all."""
        fit = self.data.fit
        rest = self.task.calibration.take(range(self.setting.samples, len(self.task.calibration)))
        more = rest.head(max(0, count - len(fit)))
        arrays = {name: torch.cat([array, more.arrays[name]]) for name, array in fit.arrays.items()}
        return Samples(arrays, mask=fit.mask)

    def _few_held_out(self) -> Samples:
        """Few enough that evaluating them takes a small part of the time."""
        return self.data.held_out.head(8 * self.setting.batch_size)

    def _record(self, row: dict, name: str, module: fx.GraphModule, plan: Plan | None) -> None:
        start = time.perf_counter()
        scores = self.judge.score(module)
        metric = self.judge.metric
        row[name] = {
            "value": scores.value(metric),
            "value_interval": scores.value_interval(metric),
            "serial": scores.serial(metric),
            "error": scores.error(metric),
            "error_interval": scores.interval(metric),
            "relative_l2": scores.relative_l2,
            "plan": None if plan is None else json.loads(plan.to_json()),
            "date": machine(1)["date"],
            "torch_threads": torch.get_num_threads(),
        }
        print(f"  {name}: {scores.value(metric):.4f} ({time.perf_counter() - start:.0f} s to judge)", flush=True)
        save(self.arguments, self.task.name, self.results, self.setting)


def say(what: str, done: int, total: int) -> None:
    """One line for every tenth of a long step."""
    if total <= 1 or done % max(1, total // 10) == 0:
        print(f"    {what}: {done} of {total}" if total > 1 else f"    {what}", flush=True)


def results_file(arguments: argparse.Namespace) -> Path:
    """Where results are kept; a quick run keeps its own."""
    return RESULTS / ("accuracy_quick.json" if arguments.quick else "accuracy.json")


def load(arguments: argparse.Namespace) -> dict:
    """What earlier calls measured."""
    path = results_file(arguments)
    return json.loads(path.read_text()) if path.exists() else {}


def save(arguments: argparse.Namespace, name: str, rows: dict, setting: Setting) -> None:
    """Keep the rows of one task with the machine that measured them."""
    everything = load(arguments)
    everything[name] = {
        "metric": setting.metric,
        "samples": setting.samples,
        "measured_on": machine(1),
        "depths": rows,
    }
    path = results_file(arguments)
    with output_file(path, f"The results cannot be kept in {path}") as scratch:
        scratch.write_text(json.dumps(everything, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(SETTINGS), help="which of them")
    parser.add_argument("--depths", help="in blocks, such as 6,4,3")
    parser.add_argument("--heal", type=float, default=0.0, metavar="SECONDS", help="heal each rewrite for so long")
    parser.add_argument("--refit-samples", type=int, metavar="N", help="fit whole networks on more than the search")
    parser.add_argument("--no-rivals", action="store_true", help="leave out the methods of the literature")
    parser.add_argument("--quick", action="store_true", help="few samples of the shipped model")
    return parser.parse_args()


def main() -> None:
    """Measure what is missing and write the page."""
    arguments = parse()
    for name in ["fashion"] if arguments.quick else arguments.tasks.split(","):
        print(name, flush=True)
        setting = QUICK if arguments.quick else SETTINGS[name]
        rows = load(arguments).get(name, {}).get("depths", {})
        benchmark = Benchmark(TASKS[name](), setting, rows, arguments)
        depths = setting.depths if arguments.depths is None else [int(text) for text in arguments.depths.split(",")]
        for depth in depths:
            print(f"  {depth} blocks deep", flush=True)
            benchmark.run(depth)
    if not arguments.quick:
        write_page(load(arguments), ROOT / "docs" / "results.md")


if __name__ == "__main__":
    main()
