"""What the study trains: problems, sizes that two cores train, and every training as a value with a name.

Rivals of one comparison make as many steps, on the same samples in the same order, with rates that were chosen among
equally many on training images that were held out. A way of training is

    serial         the twin: as many blocks, one after another
    joint          branches of one block, of which the sum alone is trained
    progressive    the same, all prefixes trained in one step

The name of a training is problem/way/blocks/seed/epochs, behind longer/ where it is on all images; that of one that
chooses a rate is choice/way/rate/weight of prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

from benchmarks.sources import CACHE
from paraformer.config import VisionConfig
from paraformer.data.idx import FASHION_MNIST
from paraformer.training.options import TrainingOptions

Way = Literal["serial", "joint", "progressive"]
Purpose = Literal["choice", "rivals", "longer"]
WAYS: tuple[Way, ...] = ("serial", "joint", "progressive")
SIZES = ("width", "heads", "hidden", "batch_size", "test")  # of a scale that every row keeps
Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Problem:
    """Images to classify.

    Attributes:
        title: for people.
        folder: of its files.
        patch_size: pixels of a patch's side.
    """

    title: str
    folder: Path
    patch_size: int


PROBLEMS = {
    "fashion": Problem("Fashion-MNIST", FASHION_MNIST, 7),
    "cifar": Problem("CIFAR-10", CACHE / "cifar10", 8),
}


@dataclass(frozen=True)
class Scale:
    """Sizes of the study.

    Attributes:
        width: features of the state.
        heads: of a block.
        hidden: features between the two linears of an MLP.
        blocks: of the networks that are compared.
        counts: branches, or blocks of a serial network, of the other ones.
        lengths: epochs of the trainings that are compared.
        choice_images: training images of those that choose a rate, in one epoch.
        longer: epochs of trainings on all images.
        batch_size: samples of a step.
        seeds: of every training.
        rates: among which one is chosen for each way.
        weights: of prefixes, among which one is chosen.
        images: training images; None is all.
        test: test images; None is all.
        refit: training images that a conversion is fitted to.
    """

    width: int = 32
    heads: int = 2
    hidden: int = 64
    blocks: int = 8
    counts: tuple[int, ...] = (1, 2, 4)
    lengths: tuple[int, ...] = (1, 8)
    choice_images: int = 12_800
    longer: tuple[int, ...] = (1, 4)
    batch_size: int = 64
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3, 16e-3)
    weights: tuple[float, ...] = (0.3, 0.6)
    images: int | None = 16_000
    test: int | None = None
    refit: int = 6000


QUICK = Scale(
    width=16,
    heads=1,
    hidden=16,
    blocks=2,
    counts=(1,),
    lengths=(1,),
    seeds=(0,),
    rates=(2e-3,),
    weights=(0.5,),
    choice_images=384,
    images=640,
    longer=(),
    test=200,
    refit=200,
)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        problem: in PROBLEMS.
        way: of training.
        blocks: in all; of a Para-Former as many branches.
        seed: of weights, order and augmentation.
        learning_rate: at its peak.
        prefix_weight: of the mean over all prefixes.
        epochs: passes over the training images.
        images: the first so many training images; None is all.
        purpose: a choice is judged on training images that are held out, others on the test images.
    """

    problem: str
    way: Way
    blocks: int
    seed: int
    learning_rate: float
    prefix_weight: float
    epochs: int
    images: int | None
    purpose: Purpose = "rivals"

    @property
    def name(self) -> str:
        """Where its row is kept."""
        if self.purpose == "choice":
            weight = f"/{self.prefix_weight:g}" if self.way == "progressive" else ""
            return f"choice/{self.way}/{self.learning_rate:g}{weight}"
        rivals = f"{self.problem}/{self.way}/{self.blocks}/{self.seed}/{self.epochs}"
        return rivals if self.purpose == "rivals" else f"longer/{rivals}"

    def config(self, scale: Scale, pixels: Mapping[str, Any]) -> VisionConfig:
        """The sizes of its network, for images of some shape, mean and deviation."""
        return VisionConfig(
            **pixels,
            patch_size=PROBLEMS[self.problem].patch_size,
            depth=self.blocks,
            width=scale.width,
            heads=scale.heads,
            hidden=scale.hidden,
            mode="serial" if self.way == "serial" else "para-former",
            branches=1 if self.way == "serial" else self.blocks,
        )

    def options(self, scale: Scale) -> TrainingOptions:
        """How it is trained."""
        return TrainingOptions(
            epochs=self.epochs,
            batch_size=scale.batch_size,
            learning_rate=self.learning_rate,
            objective="progressive" if self.way == "progressive" else "joint",
            prefix_weight=self.prefix_weight,
            seed=self.seed,
        )

    def described(self, scale: Scale) -> dict[str, Any]:
        """What it is, as a row keeps it: a row of another description is measured again."""
        sizes = {name: getattr(scale, name) for name in SIZES}
        return {**asdict(self), **sizes, "patch_size": PROBLEMS[self.problem].patch_size}


def choices(scale: Scale) -> list[Run]:
    """Trainings that choose rates: each way with each rate, then the weight of prefixes at joint training's rate."""
    runs = [_choice(scale, way, rate, 0.5) for way in ("serial", "joint") for rate in scale.rates]
    return [*runs, *(run for rate in scale.rates for run in weight_choices(scale, rate))]


def weight_choices(scale: Scale, rate: float) -> list[Run]:
    """Trainings that choose the weight of prefixes, at one rate."""
    return [_choice(scale, "progressive", rate, weight) for weight in scale.weights]


def _choice(scale: Scale, way: str, rate: float, weight: float) -> Run:
    return Run("fashion", cast("Way", way), scale.blocks, 0, rate, weight, 1, scale.choice_images, "choice")


def chosen(results: Results, scale: Scale, way: Way) -> tuple[float, float] | None:
    """The rate and the weight of prefixes that were best on held-out images; None until both are measured."""
    twin = "serial" if way == "serial" else "joint"
    best = _best(results, [run for run in choices(scale) if run.way == twin])
    if best is None or way != "progressive":
        return None if best is None else (best.learning_rate, 0.5)
    best = _best(results, weight_choices(scale, best.learning_rate))
    return None if best is None else (best.learning_rate, best.prefix_weight)


def _best(results: Results, runs: list[Run]) -> Run | None:
    """The run of the highest top-1; None where one is not measured."""
    if any(run.name not in results for run in runs):
        return None
    return max(runs, key=lambda run: results[run.name]["top1"])


def run_of(results: Results, scale: Scale, problem: str, way: Way, blocks: int, seed: int, epochs: int) -> Run:
    """A training with the chosen rate.

    Raises:
        RuntimeError: it is not chosen yet.
    """
    found = chosen(results, scale, way)
    if found is None:
        raise RuntimeError(f"The rate of {way} training is not chosen yet: run the part `choice` first.")
    return Run(problem, way, blocks, seed, *found, epochs, scale.images)


def longer(results: Results, scale: Scale) -> list[Run]:
    """Trainings of the first seed on all images, for some numbers of epochs, with the rates of the shorter ones."""
    ways: tuple[Way, ...] = ("serial", "progressive")
    runs = [
        run_of(results, scale, "fashion", way, scale.blocks, scale.seeds[0], n) for n in scale.longer for way in ways
    ]
    return [replace(run, images=None, purpose="longer") for run in runs]


def by_seed(
    results: Results, scale: Scale, problem: str, ways: tuple[Way, ...], counts: tuple[int, ...]
) -> Iterator[Run]:
    """Trainings of some ways and sizes, the short ones first, seed by seed, so that what is there is comparable."""
    for epochs, seed, blocks, way in product(scale.lengths, scale.seeds, counts, ways):
        if blocks > 1 or way == "serial":  # one branch is the serial network of one block
            yield run_of(results, scale, problem, way, blocks, seed, epochs)
