"""Does a budget hold on samples that were not seen? Seeded trials on the shipped vision transformer.

    python benchmarks/budget_trials.py [--trials N] [--budget E] [--samples N]

For each seed `--samples` calibration images are drawn at random and the search looks for the shallowest schedule within
the budget of KL, as `parallelize convert --max-error` does. What it finds is judged on all test images. Then the same
plan is refitted on as many other calibration images, and judged again: a plan should not hang on the images that it was
found on. Resumable; writes benchmarks/results/budget_trials.{json,md}.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tasks are beside this script, the packages are those of this checkout

from benchmarks.tasks import TASKS  # noqa: E402
from parallelize.data.split import split  # noqa: E402
from parallelize.files.whole_file import output_file  # noqa: E402
from parallelize.machine.measured_on import machine  # noqa: E402
from parallelize.metrics import Judge  # noqa: E402
from parallelize.models.clean import clean  # noqa: E402
from parallelize.planning.options import PlannerOptions  # noqa: E402
from parallelize.planning.planner import Planner  # noqa: E402
from parallelize.refitting.refit import refit  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
METRIC = "kl"


class Trials:
    """The model, its images, and a judge that no search sees."""

    def __init__(self, budget: float, samples: int) -> None:
        task = TASKS["fashion"]()
        self.program, _ = clean(task.program, next(iter(task.calibration.batches(2))))
        self.calibration, self.judge = task.calibration, Judge(self.program.module, task.test, METRIC)
        self.budget, self.samples = budget, samples

    def run(self, seed: int) -> dict:
        """One trial: what was found, and its errors."""
        order = torch.randperm(len(self.calibration), generator=torch.Generator().manual_seed(seed))
        here, there = (
            split(self.calibration.take(order[start : start + self.samples]), self.judge.samples, seed)
            for start in (0, self.samples)
        )
        planner = Planner(self.program, here.fit, here.held_out, METRIC, PlannerOptions(seed=seed))
        chosen = planner.within(self.budget).chosen
        again = refit(self.program.module, chosen.plan, there.fit, there.held_out)
        return {
            "depth": chosen.depth_blocks,
            "held_out": chosen.scores.kl,
            "test": self.judge.score(chosen.refitted.module).kl,
            "refitted_on_others": self.judge.score(again.module).kl,
            "plan": json.loads(chosen.plan.to_json()),
        }


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="seeds 0 to N-1")
    parser.add_argument("--budget", type=float, default=0.02, metavar="E", help="of KL, in nats")
    parser.add_argument("--samples", type=int, default=600, metavar="N", help="images of a search, a fifth held out")
    return parser.parse_args()


def main() -> None:
    """Run the trials that are missing."""
    arguments = parse()
    path = RESULTS / "budget_trials.json"
    setting = {"budget": arguments.budget, "samples": arguments.samples}
    content = json.loads(path.read_text()) if path.exists() else {}
    if {name: content.get(name) for name in setting} != setting:
        content = {**setting, "trials": {}}
    trials = Trials(**setting)
    for seed in range(arguments.trials):
        if str(seed) not in content["trials"]:
            found = content["trials"][str(seed)] = trials.run(seed)
            print(f"seed {seed}: {found['depth']} deep, {found['test']:.4f} on test images", flush=True)
            write({**content, "judged": len(trials.judge.samples), "measured_on": machine(1)}, path)


def write(content: dict, path: Path) -> None:
    """Keep what was measured, and a table of it."""
    with output_file(path, f"The trials cannot be kept in {path}") as scratch:
        scratch.write_text(json.dumps(content, indent=1) + "\n")
    rows, budget, on = list(content["trials"].items()), content["budget"], content["measured_on"]
    lines = [
        "# Does a budget hold?",
        "",
        f"The shipped vision transformer, {content['samples']} calibration images drawn anew for each seed, the",
        f"shallowest schedule of a KL of at most {budget:g} nats on those held out, judged on",
        f"{content['judged']:,} test images.",
        "",
        f"Within the budget on test images: {within(rows, 'test', budget)} of {len(rows)} trials.",
        f"Refitted on other images: {within(rows, 'refitted_on_others', budget)} of {len(rows)}.",
        "",
        "| seed | blocks deep | held-out images | test images | test, refitted on other images |",
        "|---|---|---|---|---|",
        *(
            f"| {seed} | {row['depth']} | {row['held_out']:.4f} | {row['test']:.4f} | {row['refitted_on_others']:.4f} |"
            for seed, row in rows
        ),
        "",
        f"Measured {on['date'][:10]}: {on['processor']}, torch {on['torch']}, Python {on['python']}.",
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def within(rows: list[tuple[str, dict]], name: str, budget: float) -> int:
    """How many trials kept the budget."""
    return sum(row[name] <= budget for _, row in rows)


if __name__ == "__main__":
    main()
