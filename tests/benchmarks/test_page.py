"""docs/results.md: what is best in a column, and the figure beside the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.tasks.page import write_page

MACHINE = {"date": "2026-01-02T03:04:05", "processor": "a processor", "torch": "2.13", "cores": 2, "python": "3.11"}


def _row(value: float, serial: float) -> dict[str, Any]:
    return {"value": value, "value_interval": [value - 0.01, value + 0.01], "serial": serial, "torch_threads": 2}


def _task(serial: float, depths: dict[str, dict[str, float]]) -> dict[str, Any]:
    rows = {depth: {name: _row(value, serial) for name, value in row.items()} for depth, row in depths.items()}
    return {"metric": "kl", "samples": 40, "measured_on": MACHINE, "depths": rows}


def _written(tmp_path: Path) -> str:
    shares = {"rewrite, refitted": 0.5, "SLEB, refitted": 0.6}
    results = {
        "fashion": _task(0.9, {"3": shares, "12": {"rewrite, refitted": 0.8, "rewrite, healed 600 s": 0.85}}),
        "smollm": _task(10, {"26": {"rewrite, refitted": 11, "SLEB, refitted": 12}}),
    }
    write_page(results, tmp_path / "results.md")
    return (tmp_path / "results.md").read_text()


def test_the_best_of_a_column_is_bold_which_is_the_lowest_perplexity(tmp_path: Path) -> None:
    lines = _written(tmp_path).splitlines()
    assert "| network | 12 deep | 3 deep |" in lines
    assert "| rewrite, refitted | 80.00% (79.00% .. 81.00%) | 50.00% (49.00% .. 51.00%) |" in lines
    assert "| rewrite, healed | **85.00% (84.00% .. 86.00%) in 600 s of 2 cores** |  |" in lines
    assert "| SLEB, refitted |  | **60.00% (59.00% .. 61.00%)** |" in lines
    assert "| rewrite, refitted | **11.00 (10.99 .. 11.01)** |" in lines


def test_the_figure_lies_beside_the_page_and_is_the_same_each_time(tmp_path: Path) -> None:
    assert "](results.svg)" in _written(tmp_path)
    drawn = (tmp_path / "results.svg").read_bytes()
    _written(tmp_path)
    assert (tmp_path / "results.svg").read_bytes() == drawn
