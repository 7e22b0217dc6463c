"""docs/architectures.md: what works on which architecture, written from the results of all checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.zoo import FAMILIES
from benchmarks.zoo.measured import FORMS, Result
from benchmarks.zoo.para_formers import BRANCHES, DEPTHS, WAYS, name_of

Results = Mapping[str, Result]

HEADS = (
    "architecture",
    "stacks and their terms",
    "terms, adds refused",
    "depth",
    "captured and eager, float64",
    "serial schedule equal to the bit",
    "Picard, float64",
    "pairs in sublayer form, fused",
    "pairs in block form, fused",
    "ONNX Runtime, float32",
)
INTRODUCTION = """\
What works on which architecture. The models are small and have random weights; the batch stays free, and for some
texts the number of tokens. So this says whether a rewrite is right, and nothing about accuracy. Each model is one of
transformers in a small configuration, or written by hand after the paper that the zoo names (`benchmarks/zoo`).

- **stacks and their terms**: stacks are separated by semicolons; one of a pyramid network is one stage;
  `attention+mlp` is one term x + (attention + mlp), as in GPT-J.
- **terms, adds refused**: residual adds that are a term, and those that are none, with the reasons below. There is no
  third kind: an add that is neither found nor refused is a fault of the tool, and is marked as such.
- **depth**: terms on the longest path.
- **captured and eager**: the largest relative difference of the captured graph from the module in PyTorch.
- **Picard**: largest relative error of a stack after as many rounds as it has terms.
- **pairs, fused**: neighbouring blocks two by two, then `fuse-width` in float64: how many branches of how many run in
  one operation with others, and the largest relative change of the outputs; the rest are left as they are, with the
  reasons below.
- **ONNX Runtime**: largest relative difference from PyTorch of pairs in sublayer form after `fuse-width`.
"""


def page(results: Results) -> str:
    """The whole page."""
    entries = [entry for family in FAMILIES.values() for entry in family]
    ordered = {entry.name: results[entry.name] for entry in entries if entry.name in results}
    tables = [line for title, family in FAMILIES.items() for line in _family(title, [e.name for e in family], ordered)]
    lines = [
        "# Architectures",
        "",
        INTRODUCTION,
        _summary(ordered),
        "",
        *tables,
        *_reasons(ordered),
        _measured(ordered),
        "",
    ]
    return "\n".join(lines)


def _summary(results: Results) -> str:
    captured = [result for result in results.values() if "stacks" in result]
    serial = sum(result["serial"] is True for result in captured)
    terms, refused, silent = (
        sum(count(result) for result in captured)
        for count in (lambda r: r["terms"], lambda r: len(r["refused"]), lambda r: len(r["silent"]))
    )
    return (
        f"{len(results)} architectures, {len(captured)} of them captured: {terms} terms found, {refused} adds refused, "
        f"{silent} passed over in silence; the serial schedule is equal to the bit in {serial}."
    )


def _family(title: str, names: Sequence[str], results: Results) -> Iterator[str]:
    known = [name for name in names if name in results]
    if not known:
        return
    yield from (f"## {title}", "")
    if title == "Para-Formers":
        yield from (*_operators(results), "")
    yield from ("| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS))
    yield from (row(name, results[name]) for name in known)
    yield ""


def _operators(results: Results) -> Iterator[str]:
    """Operators of the whole network after fusion, for each number of branches."""
    yield "Operators of the whole network after fusion, for each number of branches and each way to sum them up"
    yield "(`benchmarks/zoo/para_formers.py`). All branches should cost as many as one."
    yield ""
    yield (
        "| sum | blocks in a branch | " + " | ".join(f"{n} branches" if n > 1 else "1 branch" for n in BRANCHES) + " |"
    )
    yield "|---|---|" + "---|" * len(BRANCHES)
    for way in WAYS:
        for blocks in DEPTHS:
            cells = [_count(results.get(name_of(branches, blocks, way))) for branches in BRANCHES]
            yield f"| {way} | {blocks} | " + " | ".join(cells) + " |"


def _count(result: Result | None) -> str:
    fused = (result or {}).get("block")
    return str(fused["operators"]) if fused else ""


def row(name: str, result: Result) -> str:
    """One line of a table."""
    if "stacks" not in result:
        said = "refused, see below" if result.get("refused_capture") else "**failed**"
        return f"| {name} | {said} |" + " |" * (len(HEADS) - 2)
    stacks = "; ".join(_counted(result["stacks"])) or "none"
    silent = f", **{len(result['silent'])} silent**" if result["silent"] else ""
    cells = [
        name,
        ("" if result["as_expected"] else "**not as expected:** ") + stacks,
        f"{result['terms']}, {len(result['refused'])}{silent}",
        str(result["depth"]),
        figure(result["eager"]),
        {True: "yes", False: "**no**", None: "**failed**"}[result["serial"]],
        figure(result["picard"]) if result["stacks"] else "",
        *(_fusion(result[form]) for form in FORMS),
        figure(result["onnx"]) if "onnx" in result else "",
    ]
    return "| " + " | ".join(cells) + " |"


def _counted(stacks: Sequence[str]) -> list[str]:
    """Equal stacks one after another as "4 x (1 attention, 1 mlp)"."""
    found: list[tuple[str, int]] = []
    for stack in stacks:
        if found and found[-1][0] == stack:
            found[-1] = (stack, found[-1][1] + 1)
        else:
            found.append((stack, 1))
    return [f"{count} x ({stack})" if count > 2 else "; ".join([stack] * count) for stack, count in found]


def figure(value: float | None) -> str:
    """Such as 3e-16."""
    return "**failed**" if value is None else "0" if value == 0 else f"{value:.0e}"


def _fusion(part: Result | None) -> str:
    """Such as "8 of 8, 2e-16"."""
    if part is None or not part["finite"]:
        return "**failed**"
    if not part["present"]:
        return "no branches"
    done = part["present"] - len(part["left"])
    return f"{done} of {part['present']}" + (f", {figure(part['error'])}" if done else "")


def _reasons(results: Results) -> list[str]:
    failed = [
        f"- {name}, {what}: {said}" for name, result in results.items() for what, said in result["failed"].items()
    ]
    refused = [f"- {name}: {said}" for name, result in results.items() if (said := result.get("refused_capture"))]
    lines = [*_section("Checks that failed", failed), *_section("Not captured", refused)]
    note = "Numbers of nodes are left out; in brackets, how many adds of an architecture."
    adds = _grouped(results, lambda result: result.get("refused", []))
    lines += _section("Residual adds that are no terms", [note, "", *adds])
    for form in FORMS:
        left = _grouped(results, lambda result, form=form: (result.get(form) or {}).get("left", []))
        lines += _section(f"Branches that width fusion leaves as they are: {form} form", left or ["None."])
    return lines


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []


def _grouped(results: Results, reasons: Callable[[Result], Sequence[str]]) -> list[str]:
    """One line for each reason, whatever the numbers of its nodes, with the architectures that it is given for."""
    where: dict[str, dict[str, int]] = {}
    for name, result in results.items():
        for reason in reasons(result):
            counts = where.setdefault(re.sub(r"(?<=[a-z])_\d+\b", "", reason), {})
            counts[name] = counts.get(name, 0) + 1
    ranked = sorted(where.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return [f"- {reason}: " + ", ".join(f"{n} ({c})" for n, c in counts.items()) for reason, counts in ranked]


def _measured(results: Results) -> str:
    days = sorted({result["date"] for result in results.values()})
    libraries = sorted(
        {f"{name} {number}" for result in results.values() for name, number in result["versions"].items()}
    )
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    with_what = f"Measured {when} with {', '.join(libraries)}, on the CPU."
    return f"{with_what} benchmarks/results/architectures.json has the date of each architecture."
