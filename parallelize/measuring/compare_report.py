"""What a comparison tells: tables on the terminal, plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from parallelize.machine.measured_on import machine
from parallelize.measuring.by_level import LevelErrors
from parallelize.measuring.compare import CompareResult
from parallelize.measuring.output_errors import OutputErrors, Spread
from parallelize.models.acceptance import RANDOM_WARNING

SCHEMA = "parallelize-compare/1"


def as_dict(result: CompareResult) -> dict[str, Any]:
    """Plain values; what is infinite or no number is null."""
    options = result.options
    content = {
        "schema": SCHEMA,
        "measured_on": machine(options.runner.threads),
        "warnings": [RANDOM_WARNING] if result.random else [],
        "reference": {"name": result.reference[0], "runner": result.reference[1]},
        "samples": result.samples,
        "random": result.random,
        "atol": options.atol,
        "rtol": options.rtol,
        "quantile": options.quantile,
        "passed": bool(result),
        "failures": list(result.failures),
        "networks": [
            {
                "name": network.label,
                "runner": network.runner,
                "outputs": [asdict(output) for output in network.outputs],
                "levels": None if network.levels is None else _levels(network.levels),
            }
            for network in result.networks
        ],
    }
    finite: dict[str, Any] = _finite(content)
    return finite


def _levels(levels: LevelErrors) -> dict[str, Any]:
    first = levels.first
    return {**asdict(levels), "first": None if first is None else asdict(first)}


def _finite(value: Any) -> Any:
    """JSON knows no infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tables(result: CompareResult) -> Iterator[Table]:
    """One table for each network and kind of statistic."""
    for network in result.networks:
        floats = [output for output in network.outputs if output.absolute is not None or output.non_finite]
        others = [output for output in network.outputs if output not in floats]
        title = f"{network.label} ({network.runner}) against {' ('.join(result.reference)}), {result.samples} samples"
        if floats:
            yield _errors(title, floats, result)
        if others:
            yield _shares(title, others)
        if network.levels is not None:
            yield _level_table(network.levels)


def _table(title: str, *headings: str) -> Table:
    table = Table(
        title=Text(title, "table.title"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption_justify="left",
    )
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=bool(number))
    return table


def _errors(title: str, outputs: list[OutputErrors], result: CompareResult) -> Table:
    options = result.options
    tail = f"{options.quantile:g}"
    table = _table(title, "output", "error", "max", "mean", "median", tail, "cosine", "SNR\ndB", "passes\nwith")
    limit = options.tolerance
    for output in outputs:
        name = output.name if not output.non_finite else f"{output.name} ({output.non_finite} NaN or infinite)"
        table.add_row(
            Text(name),
            "abs.",
            *_spread(output.absolute),
            _number(output.cosine, ".7f"),
            _number(output.snr, ".1f"),
            _tolerance("atol", output.needed_atol),
        )
        table.add_row("", "rel.", *_spread(output.relative), "", "", _tolerance("rtol", output.needed_rtol))
    table.caption = (
        f"rel.: where the reference is not 0. {tail}: quantile. passes with: the smallest atol at rtol {limit.rtol:g},"
        f" the smallest rtol at atol {limit.atol:g}."
    )
    return table


def _spread(spread: Spread | None) -> list[str]:
    if spread is None:
        return ["-"] * 4
    return [f"{value:.2e}" for value in (spread.max, spread.mean, spread.median, spread.quantile)]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _tolerance(name: str, value: float | None) -> str:
    return "none" if value is None or math.isinf(value) else f"{name} {value:.4g}"


def _shares(title: str, outputs: list[OutputErrors]) -> Table:
    table = _table(title, "output", "elements", "that differ", "share")
    for output in outputs:
        table.add_row(Text(output.name), str(output.elements), str(output.failing), f"{output.differing:.4%}")
    return table


def _level_table(levels: LevelErrors) -> Table:
    table = _table(f"States of {levels.label}", "state", "relative L2", "")
    first = levels.first
    for level in levels.levels:
        table.add_row(Text(str(level)), f"{level.error:.2e}", "<- parts here" if level is first else "")
    table.caption = Text(levels.note, "table.caption")
    return table


def notes(result: CompareResult) -> list[str]:
    """Sentences below the tables."""
    found = [RANDOM_WARNING] if result.random else []
    for network in result.networks:
        if network.levels is None:
            continue
        first, threshold = network.levels.first, network.levels.threshold
        found.append(
            f"{network.label} stays within {threshold:g} of the reference in every state."
            if first is None
            else f"{network.label} parts from the reference at {first}: {first.error:.2e} is over {threshold:g}."
        )
    return found
