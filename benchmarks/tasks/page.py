"""docs/results.md and its figure from what benchmarks/accuracy.py measured."""

import re
from functools import partial
from pathlib import Path

from benchmarks.tasks.figure import write_figure

HEALED = re.compile(r"(.*, healed) (.+ s)")  # a name in the results -> the row, and for how long it was healed
TITLES = {
    "fashion": "Vision transformer, Fashion-MNIST: top-1 on 10,000 test images",
    "minilm": "all-MiniLM-L6-v2, Debian descriptions: recall at 1 over 1,000 pairs",
    "rxnfp": "rxnfp, schneider50k: top-1 on 2,000 test reactions",
    "smollm": "SmolLM2-135M, Debian descriptions: perplexity of 16 x 256 tokens, lower is better",
}
LOWER_IS_BETTER = {"smollm"}


def write_page(results: dict, path: Path) -> None:
    """Write the page, one table for each task, one column for each depth, the best bold; the figure lies beside it."""
    figure = path.with_suffix(".svg")
    rows = {name: _rows(task) for name, task in results.items()}
    write_figure({TITLES[name]: (rows[name], partial(_best, name)) for name in results}, figure)
    lines = [
        "# Results",
        "",
        "What a depth costs in accuracy. Every figure is of test samples that neither fitted nor chose anything, with",
        "its 95 % bootstrap interval. `python benchmarks/fetch.py` fetches models and data,",
        "`python benchmarks/accuracy.py` measures.",
        "",
        f"![scores by depth]({figure.name})",
        "",
    ]
    for name, task in results.items():
        lines += [f"## {TITLES[name]}", "", *_table(name, rows[name]), "", _told(task), ""]
    path.write_text("\n".join(lines).rstrip() + "\n")


def _table(name: str, rows: dict[str, dict[str, dict]]) -> list[str]:
    depths = list(rows)
    names = list(dict.fromkeys(network for depth in depths for network in rows[depth]))
    serial = next(iter(rows[depths[0]].values()))["serial"]
    heads = ["network", *(f"{depth} deep" for depth in depths)]
    lines = [f"Serial: {_number(name, serial)}.", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    best = {depth: _best(name, rows[depth]) for depth in depths}
    for network in names:
        cells = [network]
        for depth in depths:
            entry = rows[depth].get(network)
            text = "" if entry is None else _cell(name, entry)
            cells.append(f"**{text}**" if entry is not None and network == best[depth] else text)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _rows(task: dict) -> dict[str, dict[str, dict]]:
    """What was measured, by depth, the deepest first, and by row."""
    depths = sorted(task["depths"], key=int, reverse=True)
    return {depth: dict(_row(entry) for entry in task["depths"][depth].items()) for depth in depths}


def _row(item: tuple[str, dict]) -> tuple[str, dict]:
    """The row that a result stands in, with the seconds of a healing beside it."""
    name, entry = item
    found = HEALED.fullmatch(name)
    return (name, entry) if found is None else (found[1], {**entry, "seconds": found[2]})


def _best(name: str, row: dict) -> str:
    choose = min if name in LOWER_IS_BETTER else max
    return choose(row, key=lambda network: row[network]["value"])


def _cell(name: str, entry: dict) -> str:
    low, high = (_number(name, end) for end in entry["value_interval"])
    told = ""
    if "seconds" in entry:
        threads = entry.get("torch_threads", 1)
        told = f" in {entry['seconds']} of {threads} core{'s' if threads > 1 else ''}"
    return f"{_number(name, entry['value'])} ({low} .. {high}){told}"


def _number(name: str, value: float) -> str:
    return f"{value:.2f}" if name in LOWER_IS_BETTER else f"{value:.2%}"


def _told(task: dict) -> str:
    machine = task["measured_on"]
    return (
        f"Plans minimise {task['metric']} on calibration samples, {task['samples']} of them, a fifth held out. Measured"
        f" {machine['date'][:10]}: {machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, Python"
        f" {machine['python']}."
    )
