"""What of the claims about Para-Formers holds, at sizes that two cores train.

    python benchmarks/paraformer_study.py                        what is missing, then the page: hours of one core
    python benchmarks/paraformer_study.py --only fashion time    some parts
    python benchmarks/paraformer_study.py --page                 the page alone, from the results that are kept
    python benchmarks/paraformer_study.py --quick --results F    every part at sizes of seconds, on few images

    choice      rates and the weight of prefixes, on training images that are held out
    fashion     Fashion-MNIST: the serial twin, joint and progressive training, as many blocks and steps
    cifar       the same on CIFAR-10
    longer      the twin and progressive training on all images of Fashion-MNIST, one seed
    time        milliseconds and operators against layers, eager and ONNX Runtime, and the roofline of the CPU
    foretold    microseconds on an H200 against branches, by the cost model
    equal       serial networks that are as fast as the Para-Former
    branches    other numbers of branches, and serial networks of as many blocks
    roads       a trained twin converted and healed, against training from scratch
    engines     kernels of engines of TensorRT for RTX against layers
    gpu         time against layers on a GPU, where there is one

A training is a row of benchmarks/results/paraformer_study.json as soon as it has ended, and one that was stopped goes
on where its last epoch ended; rows whose sizes are not those of the study any more are made again. One thread computes,
so that two calls with other parts, --seeds or --epochs can run side by side. Weights are kept in benchmarks/.cache.
Fashion-MNIST is the Debian package dataset-fashion-mnist, `python benchmarks/fetch.py cifar10` fetches CIFAR-10.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the packages are those of this checkout

import torch  # noqa: E402

from benchmarks.rows import Rows  # noqa: E402
from benchmarks.sources import CACHE  # noqa: E402
from benchmarks.study import roofline, runs, timing  # noqa: E402
from benchmarks.study.roads import roads, travelled  # noqa: E402
from benchmarks.study.runs import PROBLEMS, QUICK, WAYS, Run, Scale, by_seed, choices, chosen, weight_choices  # noqa: E402
from benchmarks.study.timing import FORMS, Shape, equal_depths  # noqa: E402
from benchmarks.study.training import is_measured, trained  # noqa: E402
from parallelize.machine.measured_on import machine  # noqa: E402
from passes.errors import ParallelizeError  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "paraformer_study.json"
PAGE = ROOT / "docs" / "para-former.md"
WIDE = Shape(64, 4, 256)  # 49 tokens, as `benchmarks/paraformer_speed.py` has them
LAYERS = (1, 2, 3, 4, 6, 8, 12, 16)
FEW_LAYERS = (1, 4, 16)
SHAPES_OF_GPU = {
    "64": (WIDE, (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)),
    "192": (Shape(192, 3, 768, 224, 16, 3), (1, 2, 4, 8, 16, 32, 64)),
    "384": (Shape(384, 6, 1536, 224, 16, 3), (1, 2, 4, 8, 16, 32)),
    "768": (Shape(768, 12, 3072, 224, 16, 3), (1, 2, 4, 8)),
}


@dataclass(frozen=True)
class Study:
    """What is measured, and where results and weights go."""

    scale: Scale
    rows: Rows
    folder: Path
    quick: bool

    def train(self, wanted: Iterable[Run]) -> None:
        """Each run that has no row yet."""
        for run in wanted:
            if is_measured(self.rows.kept(), run, self.scale):
                continue
            print(f"{run.name} ...", flush=True)
            self.keep(run.name, trained(run, self.scale, self.folder))

    def keep(self, name: str, row: dict[str, Any]) -> None:
        """Keep a row and say what is in it."""
        self.rows.keep(name, row)
        print(name, {key: row[key] for key in ("top1", "cpu_seconds") if key in row}, flush=True)

    def own_shape(self) -> Shape:
        """Of the networks that are trained on Fashion-MNIST."""
        return Shape(self.scale.width, self.scale.heads, self.scale.hidden, patch=7)


def choice(study: Study) -> None:
    """Rates, then the weight of prefixes at the rate that joint training has."""
    study.train(run for run in choices(study.scale) if run.way != "progressive")
    rate = chosen(study.rows.kept(), study.scale, "joint")
    assert rate is not None
    study.train(weight_choices(study.scale, rate[0]))


def fashion(study: Study) -> None:
    """Twin, joint and progressive."""
    study.train(by_seed(study.rows.kept(), study.scale, "fashion", WAYS, (study.scale.blocks,)))


def longer(study: Study) -> None:
    """Twin and progressive on all images, for some numbers of epochs."""
    study.train(runs.longer(study.rows.kept(), study.scale))


def cifar(study: Study) -> None:
    """The same."""
    study.train(by_seed(study.rows.kept(), study.scale, "cifar", WAYS, (study.scale.blocks,)))


def times(study: Study) -> None:
    """On the CPU, of the study's own shape and of a wider one, with the roofline."""
    layers, few, turns = ((1, 2), (2,), 3) if study.quick else (LAYERS, FEW_LAYERS, 60)
    blocks = study.scale.blocks
    twins = {"serial": tuple(range(1, blocks + 1)), "folded": (blocks,)}
    own = timing.cpu_times(study.own_shape(), twins, twins, turns)
    wide = timing.cpu_times(WIDE, dict.fromkeys(FORMS, layers), dict.fromkeys(FORMS, few), turns)
    shape = study.own_shape()
    flops = {name: roofline.launched_by(shape, blocks, serial=name == "serial").flops for name in ("serial", "folded")}
    depths = equal_depths(own["ms"], blocks)
    study.keep("time/own", {**own, "equal": depths, "flops": flops, "measured_on": machine(1)})
    study.keep("time/wide", {**wide, "cpu": roofline.on_cpu(WIDE, layers, turns), "measured_on": machine(1)})


def foretold(study: Study) -> None:
    """By the cost model of an H200, for some widths."""
    shapes = {"64": (WIDE, (1, 2))} if study.quick else SHAPES_OF_GPU
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        widths = {name: roofline.predicted(shape, counts) for name, (shape, counts) in shapes.items()}
    study.keep("time/h200", {"widths": widths, "measured_on": machine(1)})


def equal(study: Study) -> None:
    """Serial networks of the depths at which they are as fast as the Para-Former, on both problems."""
    kept = study.rows.kept()
    if "time/own" not in kept:
        times(study)
        kept = study.rows.kept()
    depths = tuple(sorted(set(kept["time/own"]["equal"].values())))
    for problem in ("fashion",) if study.quick else ("fashion", "cifar"):
        study.train(by_seed(kept, study.scale, problem, ("serial",), depths))


def branches(study: Study) -> None:
    """Other numbers of branches and blocks."""
    study.train(by_seed(study.rows.kept(), study.scale, "fashion", WAYS, study.scale.counts))


def both_roads(study: Study) -> None:
    """Of each seed whose training from scratch is there, or is made."""
    for road in roads(study.rows.kept(), study.scale):
        study.train([road.serial, road.scratch])
        kept = study.rows.kept()
        if kept.get(road.name, {}).get("run") == road.described(study.scale):
            continue
        print(f"{road.name} ...", flush=True)
        study.keep(road.name, travelled(road, study.scale, kept[road.scratch.name], study.folder))


def engines(study: Study) -> None:
    """Kernels by layers; left out, with a word, where the library is not installed."""
    try:
        found = timing.engine_kernels(WIDE, (1, 2) if study.quick else FEW_LAYERS)
    except ParallelizeError as error:
        print(f"engines: not measured. {error}", flush=True)
        return
    study.keep("engines", {"layers": found, "measured_on": machine(1)})


def gpu(study: Study) -> None:
    """Time by layers on a GPU; left out where there is none, but in a quick run."""
    if not (study.quick or torch.cuda.is_available()):
        print("gpu: not measured, there is none.", flush=True)
        return
    shape, layers = (WIDE, (1, 2)) if study.quick else (SHAPES_OF_GPU["192"][0], (1, 2, 4, 8, 16, 32))
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    found = timing.gpu_times(shape, layers, 3 if study.quick else 15)
    study.keep("gpu", {"gpu": name, "us": found, "measured_on": machine(1)})


PARTS: dict[str, Callable[[Study], None]] = {
    "choice": choice,
    "fashion": fashion,
    "cifar": cifar,
    "longer": longer,
    "time": times,
    "foretold": foretold,
    "equal": equal,
    "branches": branches,
    "roads": both_roads,
    "engines": engines,
    "gpu": gpu,
}


def names(scale: Scale) -> tuple[str, ...]:
    """Of all rows that there may be."""
    seeds = range(max(scale.seeds) + 1)
    depths = range(1, scale.blocks + 1)
    every = product(PROBLEMS, WAYS, depths, seeds, scale.lengths)
    long = product(("longer/fashion",), ("serial", "progressive"), (scale.blocks,), seeds, scale.longer)
    trainings = ("/".join(map(str, parts)) for parts in (*every, *long))
    roads_of = (f"roads/{seed}/{epochs}" for epochs in scale.lengths for seed in seeds)
    times_of = ("time/own", "time/wide", "time/h200", "engines", "gpu")
    return (*(run.name for run in choices(scale)), *trainings, *roads_of, *times_of)


def main() -> None:
    """Measure what is asked for and missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--seeds", nargs="+", type=int, help="some of the seeds")
    parser.add_argument("--epochs", nargs="+", type=int, help="some of the lengths of training")
    parser.add_argument("--quick", action="store_true", help="every part at sizes of seconds")
    parser.add_argument("--results", type=Path, help="keep them there, and write no page")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scale = QUICK if arguments.quick else Scale()
    rows = Rows(arguments.results or RESULTS, names(scale))
    chosen_seeds = tuple(arguments.seeds or scale.seeds)
    folder = CACHE / ("paraformer_study_quick" if arguments.quick else "paraformer_study")
    wanted = replace(scale, seeds=chosen_seeds, lengths=tuple(arguments.epochs or scale.lengths))
    study = Study(wanted, rows, folder, arguments.quick)
    for part in () if arguments.page else arguments.only:
        PARTS[part](study)
    if arguments.results is None and not arguments.quick:
        from benchmarks.study.page import write_page

        write_page(rows.kept(), scale, PAGE)


if __name__ == "__main__":
    main()
