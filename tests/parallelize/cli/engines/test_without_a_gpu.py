"""Engines where there is no GPU: they are compared and timed elsewhere, and a command says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.parallelize.cli.commands import run
from tests.parallelize.cli.engines.told import assert_refused, spoken

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
QUICK = ("--warm-up", "0", "--duration", "0.01", "--device", "cpu")


@WITHOUT_GPU
def test_compare_with_an_engine_ends_in_3_and_bench_skips_it_with_the_reason(home: Path) -> None:
    assert run("build", "a.onnx").exit_code == 0
    assert_refused(run("compare", "a.onnx", "a.engine"), 3, "a GPU, and there is none here")
    told = run("bench", "a.onnx", "a.engine", "--json", "b.json", *QUICK)
    assert told.exit_code == 0, told.output
    assert "a.engine runs on a GPU, and there is none here" in spoken(told)
    skipped = json.loads((home / "b.json").read_text())["skipped"]
    assert "there is none here" in json.dumps(skipped)


@WITHOUT_GPU
def test_bench_of_nothing_but_an_engine_ends_in_3(home: Path) -> None:
    assert run("build", "a.onnx").exit_code == 0
    assert_refused(run("bench", "a.engine", *QUICK), 3, "Nothing could be timed")
