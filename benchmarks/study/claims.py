"""Claims of arXiv 2407.21670 and 2510.15425 about Para-Formers, and what the rows of the study say of each.

A claim holds, or does not, at the sizes of the study; where a machine, data or a pretrained model is missing that it is
about, it cannot be checked here. Verdicts follow from the rows, so that a new measurement can change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

from benchmarks.study.numbers import Length, fullest, lengths, on_h200, percents, spread, told
from benchmarks.study.runs import PROBLEMS, Results, Scale, Way

HOLDS, FAILS, PARTLY = "holds", "does not hold", "holds in part"
UNCHECKED, MISSING = "cannot be checked here", "not measured yet"
_CLOSE, _USABLE = 0.5, 1.0  # points
_BOTH: tuple[Way, ...] = ("progressive", "joint")


@dataclass(frozen=True)
class Claim:
    """A claim, where it is made, and what is found."""

    text: str
    source: str
    verdict: str
    evidence: str


def claims(results: Results, scale: Scale) -> list[Claim]:
    """All of them, in the order of the papers."""
    return [
        _time(results),
        _deeper(results, scale),
        _sum(results, scale),
        _speed(results),
        Claim(
            "The scale and variety of the data decide how good it is.", "2407.21670", UNCHECKED,
            "all rivals saw the same images; those trained for longer on more of them are one seed.",
        ),
        Claim(
            "Fine-tuning pretrained ViTs helps where data is scarce.", "2407.21670", UNCHECKED,
            "no ViT that was pretrained on other images is here; the two roads are of twins trained on the same ones.",
        ),
        _accuracy(results, scale),
        _prefixes(results, scale),
        _compression(results, scale),
        Claim(
            "3.30 times as fast as FairScale on several GPUs.", "2510.15425", UNCHECKED, "no machine of several GPUs.",
        ),
        Claim(
            "Branches can be added to a trained network (continual learning).", "2510.15425", UNCHECKED,
            "`parallelize train --grow` does it, and this study has no sequence of tasks.",
        ),
        Claim(
            "Gains on CIFAR-100.", "2510.15425", UNCHECKED, "CIFAR-100 is not among the data that is fetched.",
        ),
    ]  # fmt: skip


def _time(results: Results) -> Claim:
    text, source = "Inference time does not increase with the number of layers.", "2407.21670"
    times = results.get("time/wide", {}).get("ms", {}).get("eager")
    measured = on_h200()
    if times is None:
        return Claim(text, source, MISSING, "")
    wide, serial = measured["Para-Former, fused"], measured["serial"]
    most = max(wide)
    few, many = (times["folded"][key] for key in (min(times["folded"], key=int), max(times["folded"], key=int)))
    layers = max(times["folded"], key=int)
    grown = wide[most] / wide[1]
    verdict = HOLDS if max(many / few, grown) < 1.1 else PARTLY
    evidence = (
        f"from 1 to {layers} layers time grows {many / few:.1f} times on one core, and from 1 to {most} layers"
        f" {grown:.1f} times on an H200, where the serial network's grows {serial[most] / serial[1]:.1f} times. It is"
        " flat only while launches outweigh work."
    )
    return Claim(text, source, verdict, evidence)


def _deeper(results: Results, scale: Scale) -> Claim:
    text, source = "More parallel layers are better.", "2407.21670"
    counts = (*scale.counts, scale.blocks)
    length = fullest(results, scale, *(("fashion", "joint", count) for count in counts))
    if length is None:
        return Claim(text, source, MISSING, "")
    found = [length.scores("fashion", "joint", count) for count in counts]
    gain, noise = mean(found[-1]) - mean(found[0]), max(map(spread, found))
    rising = all(mean(a) < mean(b) for a, b in pairwise(found))
    verdict = HOLDS if gain > noise and rising else PARTLY if gain > noise else FAILS
    row = ", ".join(f"{count}: {told(values)}" for count, values in zip(counts, found, strict=True))
    return Claim(
        text, source, verdict, f"Fashion-MNIST, {length.steps} steps, top-1 by branches, trained jointly: {row}."
    )


def _sum(results: Results, scale: Scale) -> Claim:
    text = "A residual network is a sum of terms, so what the terms read of each other can be dropped."
    known = [length for length in lengths(results, scale) if length.roads()]
    if not known:
        return Claim(text, "2407.21670", MISSING, "")
    as_is = percents([row["as_is"] for row in known[0].roads()])
    twin = known[0].scores("fashion", "serial")
    verdict = HOLDS if mean(twin) - mean(as_is) < _CLOSE else FAILS
    evidence = (
        f"the sum is an identity, dropping is not: of {told(twin)} % a trained twin keeps {told(as_is)} when its blocks"
        " all read the embedding, before anything is fitted or trained."
    )
    return Claim(text, "2407.21670", verdict, evidence)


def _speed(results: Results) -> Claim:
    text, source = "Deep networks become much faster.", "2407.21670"
    times = results.get("time/wide", {}).get("ms")
    if times is None:
        return Claim(text, source, MISSING, "")
    found = []
    for runner, forms in times.items():
        layers = max(forms["folded"], key=int)
        found.append((runner, layers, forms["serial"][layers] / forms["folded"][layers]))
    measured = on_h200()
    most = max(measured["serial"])
    gpu = measured["serial"][most] / measured["Para-Former, fused"][most]
    row = ", ".join(f"{ratio:.2f} times with {layers} layers ({runner}, one core)" for runner, layers, ratio in found)
    ratios = [ratio for *_, ratio in found]
    verdict = HOLDS if min(gpu, *ratios) > 1.5 else PARTLY if max(gpu, *ratios) > 1.5 else FAILS
    return Claim(text, source, verdict, f"{row}; {gpu:.1f} times with {most} layers on an H200, one image.")


def _accuracy(results: Results, scale: Scale) -> Claim:
    text, source = "More accurate than the serial ViT, by up to 2.39 points.", "2510.15425"
    known = {}
    for problem, facts in PROBLEMS.items():
        for length in reversed(lengths(results, scale)):
            values = length.differences(problem, "progressive")
            known |= {f"{facts.title}, {length.steps} steps": values} if values else {}
    if not known:
        return Claim(text, source, MISSING, "")
    above = [mean(values) > spread(values) for values in known.values()]
    verdict = HOLDS if all(above) else PARTLY if any(above) else FAILS
    row = "; ".join(f"{title} {told(values, signed=True)}" for title, values in known.items())
    return Claim(text, source, verdict, f"points of progressive training above the twin of equal parameters: {row}.")


def _prefixes(results: Results, scale: Scale) -> Claim:
    text, source = "Progressive training makes every prefix of the branches a usable model.", "2510.15425"
    length = _trained_progressively(results, scale)
    if length is None:
        return Claim(text, source, MISSING, "")
    ours, joint = (length.prefixes("fashion", way) for way in _BOTH)
    least, whole = mean(ours[0]), mean(ours[-1])
    other = f"; trained jointly its first branch alone has {told(joint[0])}" if joint else ""
    verdict = HOLDS if whole - least < 10 * _USABLE else FAILS
    return Claim(
        text,
        source,
        verdict,
        f"Fashion-MNIST, {length.steps} steps: one branch {told(ours[0])}, all {told(ours[-1])}{other}.",
    )


def _compression(results: Results, scale: Scale) -> Claim:
    text, source = "Up to 15.07 times smaller by leaving out branches.", "2510.15425"
    length = _trained_progressively(results, scale)
    if length is None:
        return Claim(text, source, MISSING, "")
    found = length.prefixes("fashion", "progressive")
    enough = next(count for count, values in enumerate(found, 1) if mean(found[-1]) - mean(values) <= _USABLE)
    near, whole = told(found[enough - 1]), told(found[-1])
    evidence = (
        f"Fashion-MNIST, {length.steps} steps: {enough} of {scale.blocks} branches are within one point of all ({near}"
        f" of {whole}), {scale.blocks / enough:.1f} times fewer; a factor of 15 asks for more branches."
    )
    return Claim(text, source, PARTLY if enough < scale.blocks else FAILS, evidence)


def _trained_progressively(results: Results, scale: Scale) -> Length | None:
    return fullest(results, scale, *(("fashion", way, scale.blocks) for way in _BOTH))
