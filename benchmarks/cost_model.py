"""How well does the cost model predict latencies on a GPU that is not here?

    python benchmarks/cost_model.py            fits targets/h200.json, judges it, writes docs/targets.md
    python benchmarks/cost_model.py --fresh    builds the networks anew, though their kernels are in the cache

Needs no GPU: the latencies are those of results/gpu_latency.json, and the networks are built here as the study that
measured them built them, with random weights, for their kernels alone. That takes a few minutes of a CPU; the kernels
are kept in the cache, and fitting them is a matter of seconds.

The model is judged on each family with all numbers fitted to the other families, every family weighing the same.
"""

import argparse
import datetime as dt
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import sqrt
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the packages are those of this checkout

from benchmarks.gpu.cost_model_page import Family, page  # noqa: E402
from benchmarks.gpu.networks import families, para_formers, rewrites  # noqa: E402
from benchmarks.sources import CACHE  # noqa: E402
from parallelize.files.typed_json import from_plain, to_plain  # noqa: E402
from parallelize.predicting.fitting import Measured, errors, fit, median_error, started  # noqa: E402
from parallelize.predicting.kernel import Kernels  # noqa: E402
from parallelize.predicting.kernels import kernels  # noqa: E402
from parallelize.predicting.target import Target, shipped  # noqa: E402

LATENCIES = ROOT / "benchmarks" / "results" / "gpu_latency.json"
TARGET = ROOT / "parallelize" / "predicting" / "targets" / "h200.json"
LISTED_BY = [
    *(ROOT / "parallelize" / "predicting" / f"{name}.py" for name in ("kernel", "kernels", "bound_shapes")),
    ROOT / "benchmarks" / "gpu" / "networks.py",
]
KERNELS = CACHE / "gpu_kernels.json"
PAGE = ROOT / "docs" / "targets.md"
BATCHES = (1, 2, 4, 8, 16, 32)
BRANCHES = (1, 2, 4, 8, 16, 32)
SMS = 132  # of an H200
HELD = ("gb_per_s",)  # the study measured it by itself, with copies of 2 GiB


@dataclass(frozen=True)
class Row:
    """One latency of the study.

    Attributes:
        family: what is left out together.
        network: its label.
        batch: samples of a call.
        measured: its kernels and microseconds.
    """

    family: str
    network: str
    batch: int
    measured: Measured


def built() -> Iterator[tuple[str, str, int, Kernels]]:
    """The kernels of every network of the study, by family, label and batch."""
    for branches in BRANCHES:
        for network in para_formers(branches, "cpu", torch.float32):
            yield f"Para-Former, {branches} branches", network.label, 1, kernels(network.program, {"batch": 1}, "bf16")
    for family in families(small=False):
        for network in rewrites(family, "cpu", torch.float32):
            for batch in BATCHES:
                yield family.name, network.label, batch, kernels(network.program, {"batch": batch}, "bf16")


def kept(*, fresh: bool) -> dict[tuple[str, str, int], Kernels]:
    """The kernels from the cache, where they are there and what lists them is as it was."""
    code = hashlib.sha256(b"".join(path.read_bytes() for path in LISTED_BY)).hexdigest()
    if fresh or not KERNELS.is_file() or json.loads(KERNELS.read_text())["code"] != code:
        torch.manual_seed(0)
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            found = [{"of": place, "kernels": to_plain(launched)} for *place, launched in built()]
        KERNELS.parent.mkdir(parents=True, exist_ok=True)
        KERNELS.write_text(json.dumps({"code": code, "networks": found}))
    content = json.loads(KERNELS.read_text())["networks"]
    return {tuple(each["of"]): from_plain(Kernels, each["kernels"], KERNELS.name) for each in content}


def rows(study: dict, known: dict[tuple[str, str, int], Kernels], runtime: str = "torch") -> list[Row]:
    """The latencies of a runtime, each family weighing the same; "torch" is PyTorch's own kernels, one by one."""
    every = [row for row in study["rows"] if row["runtime"] == runtime]
    names = [row["family"].split(",")[0] for row in every]
    found = []
    for name, row in zip(names, every, strict=True):
        weight = sqrt(len(every) / len(set(names)) / names.count(name))
        place = (row["family"], row["network"], row["batch"])
        found.append(Row(name, row["network"], row["batch"], Measured(known[place], row["median_us"], weight)))
    return found


def fitted(chosen: list[Row], study: dict) -> Target:
    """The numbers of an H200, of some rows."""
    machine, limits = study["machine"], study["ceilings"]["bfloat16"]
    start = started(machine["gpu"], machine["compute capability"], SMS, ["bf16"])
    start = replace(start, gb_per_s=round(limits["copy_bytes_per_s"] / 1e9))
    return fit([row.measured for row in chosen], start, HELD)


def judged(name: str, every: list[Row], study: dict) -> Family:
    """A family by numbers that were fitted without it."""
    target = fitted([row for row in every if row.family != name], study)
    mine = [row for row in every if row.family == name]
    found = errors([row.measured for row in mine], target)
    times = [row.measured.microseconds for row in mine]
    predicted = [time * (1 + error) for time, error in zip(times, found, strict=True)]
    by_batch = {}
    for batch in sorted({row.batch for row in mine}):
        places = [place for place, row in enumerate(mine) if row.batch == batch]
        by_batch[batch] = tau([predicted[place] for place in places], [times[place] for place in places])
    return Family(
        name=name,
        networks=len(mine),
        tau=tau(predicted, times),
        tau_by_batch=by_batch,
        median_error=median(map(abs, found)),
        largest_error=max(found, key=abs),
        worst=max(zip(map(abs, found), [f"{row.network}, batch {row.batch}" for row in mine], strict=True))[1],
    )


def tau(left: list[float], right: list[float]) -> float:
    """Kendall's tau-b: concordant less discordant pairs, over the pairs that are no ties on either side."""
    pairs = [
        (_sign(left[first] - left[second]), _sign(right[first] - right[second]))
        for first in range(len(left))
        for second in range(first)
    ]
    untied = [sum(1 for pair in pairs if pair[side]) for side in (0, 1)]
    return sum(one * other for one, other in pairs) / sqrt(untied[0] * untied[1])


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def main() -> None:
    """Fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="build the networks anew")
    given = parser.parse_args()
    study = json.loads(LATENCIES.read_text())
    known = kept(fresh=given.fresh)
    every, joined = rows(study, known), rows(study, known, "torch.compile")
    found = [judged(name, every, study) for name in dict.fromkeys(row.family for row in every)]
    target = fitted(every, study)
    own = median_error([row.measured for row in every], target)
    target = replace(
        target,
        error=round(median(family.median_error for family in found), 3),
        error_of=f"{len(found)} families of networks, each predicted by numbers fitted to the others",
        measured_on=study["machine"],
    )
    target.write(TARGET)
    today = dt.datetime.now(dt.timezone.utc).date().isoformat()
    built_with = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    compiled = errors([row.measured for row in joined], target)
    PAGE.write_text(page(target, found, own, compiled, today, built_with))
    for family in found:
        print(f"{family.name}: tau {family.tau:.3f}, median error {family.median_error:.1%}")
    print(f"all, fitted to all: median error {own:.1%}; shipped: {', '.join(shipped())}")


if __name__ == "__main__":
    main()
