"""The benchmark of memory: its models and plans fit each other, its stages and its page tell what was seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from benchmarks import memory
from benchmarks.memory import ROWS, SIZES, Stage, build, page, weight_bytes
from passes.plan import Plan


def test_a_model_is_written_with_tokens_and_a_plan_of_two_pairs_or_one(tmp_path: Path) -> None:
    build("tiny", "bfloat16", tmp_path / "model", tmp_path / "plan.json", tmp_path / "data.npz")
    assert torch.get_default_dtype() == torch.float32
    size = SIZES["tiny"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["architectures"]) == (size.blocks, ["LlamaForCausalLM"])
    (stack,) = Plan.from_json((tmp_path / "plan.json").read_text()).stacks
    assert (stack.terms, stack.depth, stack.refit) == (2 * size.blocks, 2 * size.blocks - 2, "full")
    assert np.load(tmp_path / "data.npz")["input_ids"].shape == (16, 128)
    attention = size.width * size.width * 2 + size.width * (size.width // size.heads) * 4 * 2
    numbers = size.blocks * (attention + 3 * size.width * size.hidden) + 2 * size.vocabulary * size.width
    assert 2 * numbers < weight_bytes(tmp_path / "model") < 2.2 * numbers


def test_a_look_belongs_to_what_was_said_last_before_it() -> None:
    said = [(0.0, "starting"), (1.0, "capturing"), (2.0, "timing")]
    seen = [(0.5, 10, 1, 0), (1.2, 30, 2, 5), (1.9, 20, 3, 6), (2.5, 25, 9, 7)]
    assert list(memory._stages(said, seen)) == [
        Stage("starting", 1.0, 10, 1, 0),
        Stage("capturing", 1.0, 30, 3, 6),
        Stage("timing", 1.5, 25, 9, 7),
    ]


def test_the_page_tells_of_each_row_what_it_took_beyond_libraries_and_buffer() -> None:
    machine = {"date": "2026-01-02T03", "processor": "a CPU", "cores": 2, "torch": "2", "python": "3"}
    found = {
        "weights": 4_000_000_000,
        "libraries": 500_000_000,
        "libraries_anonymous": 400_000_000,
        "buffer": 2_000_000_000,
        "peak": 10_500_000_000,
        "anonymous": 5_400_000_000,
        "disk": 9_000_000_000,
        "cpu_seconds": 1234,
        "wall_seconds": 2345,
        "stages": [{"what": "timing", "resident": 10_500_000_000}, {"what": "judging", "resident": 2_500_000_000}],
        "machine": machine,
    }
    text = page({ROWS[-2]: found})
    row = next(line for line in text.splitlines() if "float32" in line and line.startswith("| 22 blocks"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:] == ["4.00", "0.50", "10.00", "2.50", "**2.00**", "5.00", "9.00", "1,234", "2,345"]
    assert f"- {ROWS[-2]}: timing 2.50; judging 0.50" in text
