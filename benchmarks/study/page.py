"""docs/para-former.md, written from the rows of the study that are of its sizes, with its figures beside it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import mean

from benchmarks.rows import table_row
from benchmarks.rows import told as told_machine
from benchmarks.study.claims import claims
from benchmarks.study.figures import write_accuracy, write_time
from benchmarks.study.markdown import heading, item, prose, table
from benchmarks.study.numbers import Length, current, lengths, percents, told
from benchmarks.study.page_of_times import ends, layers
from benchmarks.study.runs import PROBLEMS, WAYS, Results, Scale, Way, chosen
from parallelize.terminal.words import listed

_AIM = 0.5  # points of progressive training below its twin
NAMES = {
    "serial": "serial twin",
    "joint": "Para-Former, joint",
    "progressive": "Para-Former, progressive",
}
ROADS = {
    "as_is": "converted, as is",
    "refitted": "converted, refitted",
    "healed": "converted, refitted, healed",
    "tuned": "converted, as is, then tuned with labels",
}


def write_page(results: Results, scale: Scale, path: Path) -> None:
    """Write the page and its figures."""
    results = current(results, scale)
    write_accuracy(results, scale, path.with_name("para-former-accuracy.svg"))
    write_time(results, path.with_name("para-former-time.svg"))
    sections = (_head, _claims, _twins, _longer, _latency, _prefix_tables, _branches, _roads, layers, ends, _machines)
    lines = [line for section in sections for line in section(results, scale)]
    path.write_text("\n".join(lines).rstrip("\n") + "\n")


def _head(results: Results, scale: Scale) -> Iterator[str]:
    yield from ("# Para-Former: what of it holds", "")
    yield from prose(
        "Para-Former ([2407.21670](https://arxiv.org/abs/2407.21670)) lets all layers read the embedding, side by",
        "side; its successor ([2510.15425](https://arxiv.org/abs/2510.15425)) trains every prefix of the branches.",
        "Their result tables are not public, so each network here is measured against its own serial twin: as many",
        "blocks of the same kind, one after another, trained in as many steps on the same images. `python",
        "benchmarks/paraformer_study.py` trains, measures and writes this page.",
    )
    yield from prose(
        f"**These are small networks**, of sizes that one core trains in minutes: {scale.blocks} blocks of width",
        f"{scale.width}, {scale.heads} heads, {scale.hidden} hidden features, 16 tokens, {_passes(scale)} in batches",
        f"of {scale.batch_size}. What holds for them need not hold for large ones, and none of them is trained to the",
        f"end of what it could learn. Figures are means of {len(scale.seeds)} seeds ± their standard deviation; a seed",
        "decides weights, order and augmentation. All test images judge, and they choose nothing.",
    )
    rates = [f"{way} {found[0]:g}" for way in ("serial", "joint") if (found := chosen(results, scale, way))]
    weight = chosen(results, scale, "progressive")
    if weight:
        yield from prose(
            f"Learning rates were chosen for each way among {len(scale.rates)}, and the weight of prefixes among",
            f"{len(scale.weights)}, on a tenth of Fashion-MNIST's training images that was held out, after one pass",
            f"over {scale.choice_images:,} others: {', '.join(rates)}; progressive takes the rate of joint training",
            f"and gives the mean over all prefixes a weight of {weight[1]:g}. CIFAR-10 takes them over.",
        )
    yield from ("![accuracy against branches, and of every prefix](para-former-accuracy.svg)", "")


def _passes(scale: Scale) -> str:
    passes = listed([f"{epochs}" for epochs in sorted(scale.lengths)], "or") + " passes"
    images = "the training images" if scale.images is None else f"the first {scale.images:,} training images"
    return f"{passes} over {images}"


def _twins(results: Results, scale: Scale) -> Iterator[str]:
    yield from heading("Equal parameters and FLOPs")
    yield from prose(
        "A branch is a block of the serial twin, so both have the same parameters, and but for a sum the same FLOPs.",
    )
    yield from table("problem", "network", "parameters", "steps", "top-1, %", "by seed", "CPU seconds")
    every = [(problem, length) for problem in PROBLEMS for length in reversed(lengths(results, scale))]
    for problem, length in every:
        for way in WAYS:
            rows = length.trainings(problem, way)
            if rows:
                found = length.scores(problem, way)
                seconds = mean(row["cpu_seconds"] for row in rows)
                each = ", ".join(f"{value:.2f}" for value in found)
                cells = (f"{rows[0]['parameters']:,}", length.steps, told(found), each, f"{seconds:.0f}")
                yield table_row((PROBLEMS[problem].title, NAMES[way], *cells))
    yield ""
    for problem, length in every:
        apart, joint = (length.differences(problem, way) for way in ("progressive", "joint"))
        if apart:
            within = "no more than" if mean(apart) >= -_AIM else "more than"
            yield from item(
                f"{PROBLEMS[problem].title}, {length.steps} steps: progressive training ends",
                f"{told(apart, signed=True)} points from the twin, seed by seed, {within} {_AIM} below it; joint",
                f"training {told(joint, signed=True)}.",
            )
    flops = results.get("time/own", {}).get("flops")
    if flops:
        serial, wide = (flops[name] / 1e6 for name in ("serial", "folded"))
        yield from item(f"FLOPs of one image: serial {serial:.2f} million, Para-Former {wide:.2f} million, folded.")
    yield ""


def _longer(results: Results, scale: Scale) -> Iterator[str]:
    """How far progressive training is ahead or behind when both are trained for longer."""
    ways: tuple[Way, ...] = ("serial", "progressive")
    rows = {
        epochs: {way: results.get(f"longer/fashion/{way}/{scale.blocks}/{scale.seeds[0]}/{epochs}") for way in ways}
        for epochs in scale.longer
    }
    done = {epochs: row for epochs, row in rows.items() if all(row.values())}
    if not done:
        return
    yield from prose("Trained for longer, on all training images of Fashion-MNIST, one seed, with the same rates:")
    yield from table("epochs", "steps", *(NAMES[way] for way in ways), "points", "CPU seconds")
    for epochs, row in done.items():
        serial, ours = (row[way] for way in ways)
        assert serial is not None
        assert ours is not None
        cells = [f"{100 * each['top1']:.2f}" for each in (serial, ours)]
        points = f"{100 * (ours['top1'] - serial['top1']):+.2f}"
        seconds = ", ".join(f"{each['cpu_seconds']:.0f}" for each in (serial, ours))
        yield table_row((epochs, f"{serial['steps']:,}", *cells, points, seconds))
    yield ""


def _latency(results: Results, scale: Scale) -> Iterator[str]:
    own = results.get("time/own")
    if own is None:
        return
    yield from heading("Equal latency")
    yield from prose(
        f"The deepest serial network that is no slower than the folded Para-Former of {scale.blocks} branches, one",
        "image, one thread, milliseconds in turn in one run. On a CPU branches share one core, so the Para-Former",
        "saves operators and no work.",
    )
    heads = ("runner", "Para-Former", f"serial, {scale.blocks} blocks", "serial blocks as fast", "its time")
    yield from table(*heads, *(f"{facts.title}: Para-Former, serial" for facts in PROBLEMS.values()))
    for runner, depth in own["equal"].items():
        serial, wide = own["ms"][runner]["serial"], own["ms"][runner]["folded"][str(scale.blocks)]
        pairs = [_pair(lengths(results, scale), problem, depth) for problem in PROBLEMS]
        yield table_row((runner, wide, serial[str(scale.blocks)], depth, serial[str(depth)], *pairs))
    yield ""


def _pair(known: list[Length], problem: str, depth: int) -> str:
    """Scores of the Para-Former and of a serial network, of the longest training of both."""
    for length in known:
        ours, serial = length.scores(problem, "progressive"), length.scores(problem, "serial", depth)
        if ours and serial:
            return f"{told(ours)}, {told(serial)} ({length.steps} steps)"
    return "not measured"


def _prefix_tables(results: Results, scale: Scale) -> Iterator[str]:
    yield from heading("Every prefix")
    yield from prose(
        "Top-1 of the first so many branches of one trained network, in percent.",
    )
    yield from table("problem", "steps", "training", *map(str, range(1, scale.blocks + 1)))
    every = [(problem, length) for problem in PROBLEMS for length in reversed(lengths(results, scale))]
    ways: tuple[Way, ...] = ("progressive", "joint")
    for (problem, length), way in product(every, ways):
        found = length.prefixes(problem, way)
        if found:
            yield table_row((PROBLEMS[problem].title, length.steps, way, *map(told, found)))
    yield ""


def _branches(results: Results, scale: Scale) -> Iterator[str]:
    yield from heading("Accuracy against the number of branches")
    yield from prose(
        "Fashion-MNIST; each network trained by itself, in as many steps.",
    )
    counts = (*scale.counts, scale.blocks)
    yield from table("steps", "training", *counts)
    for length, way in product(reversed(lengths(results, scale)), WAYS):
        found = [length.scores("fashion", way, count) for count in counts]
        if any(found):
            yield table_row((length.steps, NAMES[way], *map(told, found)))
    yield ""


def _roads(results: Results, scale: Scale) -> Iterator[str]:
    known = [length for length in reversed(lengths(results, scale)) if length.roads()]
    if not known:
        return
    yield from heading("The two roads: trained from scratch, or converted")
    yield from prose(
        "Fashion-MNIST. A trained serial twin is converted to one level; minutes of CPU are those of its training and",
        f"of what comes behind it. Refit: {scale.refit:,} training images without labels. Healing follows the twin's",
        "answers on all training images of the study, without labels, for about as many CPU seconds as the training",
        "from scratch took (two short healings foretell them). Tuning takes labels, in as many steps as from scratch.",
    )
    yield from table("steps", "road", "top-1, %", "CPU minutes behind the serial training", "in all")
    for length in known:
        yield from _roads_of(length)
    yield ""


def _roads_of(length: Length) -> Iterator[str]:
    rows, twin, scratch = length.roads(), length.trainings("fashion", "serial"), length.trainings("fashion", "joint")
    before, taken = (mean(row["cpu_seconds"] for row in each) / 60 for each in (twin, scratch))
    yield table_row((length.steps, "serial twin", told(percents(twin)), "", f"{before:.1f}"))
    yield table_row((length.steps, "Para-Former from scratch, joint", told(percents(scratch)), "", f"{taken:.1f}"))
    for key, name in ROADS.items():
        found = [row[key] for row in rows]
        minutes = mean(row.get("cpu_seconds", 0.0) for row in found) / 60
        cells = (told(percents(found)), f"{minutes:.1f}", f"{before + minutes:.1f}")
        yield table_row((length.steps, name, *cells))


def _claims(results: Results, scale: Scale) -> Iterator[str]:
    yield from heading("Claims")
    yield from table("claim", "of", "here", "evidence")
    for claim in claims(results, scale):
        yield table_row((claim.text, claim.source, f"**{claim.verdict}**", claim.evidence))
    yield ""


def _machines(results: Results, scale: Scale) -> Iterator[str]:
    del scale
    lines = {told_machine(row["measured_on"]) for row in results.values() if "measured_on" in row}
    yield from (f"Measured {line}, one thread." for line in sorted(lines))
