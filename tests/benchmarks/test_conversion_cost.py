"""The page of whole conversions: stages are told without their numbers, and every row has its machine."""

from __future__ import annotations

from benchmarks.conversion_cost import page, stage_name
from benchmarks.memory import Stage


def test_a_progress_line_is_told_without_its_numbers_and_names() -> None:
    lines = {
        "measuring groups, 12 so far": "measuring groups",
        "measuring 3 blocks deep": "measuring whole networks",
        "writing and checking the ONNX of 'rewrite, refitted'": "writing and checking the ONNX",
        "judging 'rewrite, as is'": "judging",
        "timing": "timing",
    }
    assert {line: stage_name(Stage(line, 1.0, 0, 0, 0)) for line in lines} == lines


def test_the_longest_stages_stand_first() -> None:
    machine = {"date": "2026-01-01T00", "processor": "P", "cores": 2, "torch": "2", "python": "3"}
    row = {"threads": 2, "cpu_seconds": 1234, "wall_seconds": 700, "forward_passes": 5.3, "peak_mb": 900}
    text = page({"demo": {**row, "stages": {"short": 1.0, "long": 9.0}, "measured_on": machine}})
    assert "| 2 | 1,234 | 700 | 5.3 | 900 |" in text
    assert "- demo: long 9; short 1" in text
    assert "Measured: demo, 2026-01-01: P, 2 cores, torch 2, Python 3." in text
