"""The study of Para-Formers: what is trained, what chooses its rates, what page and claims read out of the rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.study import roads, training
from benchmarks.study.claims import FAILS, HOLDS, MISSING, UNCHECKED, claims
from benchmarks.study.numbers import Length, fullest, told
from benchmarks.study.page import write_page
from benchmarks.study.roofline import crossing
from benchmarks.study.runs import QUICK, Run, Scale, by_seed, choices, chosen
from benchmarks.study.timing import Shape, equal_depths
from benchmarks.study.training import is_measured, seen_by, trained
from paraformer.data.labelled import Dataset, Labelled

SCALE = replace(QUICK, seeds=(0, 1), rates=(1e-3, 2e-3), weights=(0.2, 0.8))
MACHINE = {"date": "2026-01-02T03", "processor": "a CPU", "cores": 2, "torch": "2", "python": "3"}
SHAPE = Shape(8, 1, 8, side=8)


def _row(top1: float, *prefixes: float, seconds: float = 60.0) -> dict[str, Any]:
    numbers = {"parameters": 1234, "steps": 10, "cpu_seconds": seconds}
    return {"top1": top1, "prefixes": list(prefixes), **numbers, "measured_on": MACHINE}


def _choices(best: str) -> dict[str, dict[str, Any]]:
    return {run.name: _row(0.9 if run.name == best else 0.5) for run in choices(SCALE)}


def _results() -> dict[str, dict[str, Any]]:
    """Of everything but time."""
    rows = _choices("choice/progressive/0.001/0.8")
    for problem in ("fashion", "cifar"):
        for seed in SCALE.seeds:
            rows[f"{problem}/serial/1/{seed}/1"] = _row(0.70 + seed / 100)
            rows[f"{problem}/serial/2/{seed}/1"] = _row(0.80 + seed / 100)
            rows[f"{problem}/joint/2/{seed}/1"] = _row(0.81 + seed / 100, 0.3, 0.81)
            rows[f"{problem}/progressive/2/{seed}/1"] = _row(0.82 + seed / 100, 0.815, 0.82)
    for seed in SCALE.seeds:
        road = {"as_is": {"top1": 0.3}, "tuned": {"top1": 0.83, "cpu_seconds": 60.0}}
        rows[f"roads/{seed}/1"] = {
            **road, "refitted": {"top1": 0.6, "cpu_seconds": 6.0}, "healed": {"top1": 0.7, "cpu_seconds": 60.0},
            "measured_on": MACHINE,
        }  # fmt: skip
    return rows


def _images(count: int) -> Labelled:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return Labelled((pixels,), torch.arange(count) % 10)


@pytest.fixture
def random_images(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """In the place of every problem."""
    data = Dataset("random", _images(256), _images(50), tuple("0123456789"))
    for module in (training, roads):
        monkeypatch.setattr(module, "data_of", lambda *_: data)
    return data


def test_rivals_make_as_many_steps_with_the_rates_that_were_best_on_held_out_images() -> None:
    results = _choices("choice/joint/0.002")
    assert chosen(results, SCALE, "joint") == (2e-3, 0.5)
    runs = list(by_seed(results, SCALE, "fashion", ("serial", "joint", "progressive"), (1, 2)))
    assert [run.name for run in runs[:4]] == [
        "fashion/serial/1/0/1", "fashion/serial/2/0/1", "fashion/joint/2/0/1", "fashion/progressive/2/0/1",
    ]  # fmt: skip
    assert {run.epochs for run in runs} == set(SCALE.lengths)
    assert {run.learning_rate for run in runs if run.way != "serial"} == {2e-3}


def test_no_rate_is_taken_before_all_are_measured() -> None:
    results = _choices("choice/joint/0.002")
    del results["choice/serial/0.001"]
    assert chosen(results, SCALE, "serial") is None
    with pytest.raises(RuntimeError, match="The rate of serial training is not chosen yet"):
        list(by_seed(results, SCALE, "fashion", ("serial",), (2,)))


def test_what_chooses_a_rate_sees_no_test_image(random_images: Dataset) -> None:
    run = choices(SCALE)[0]
    seen = seen_by(replace(run, images=64), random_images)
    assert (run.purpose, len(seen.train), len(seen.test)) == ("choice", 64, 20)
    known = {bytes(image.numpy().tobytes()) for image in random_images.train.inputs[0]}
    assert all(bytes(image.numpy().tobytes()) in known for image in seen.test.inputs[0])


@pytest.mark.usefixtures("random_images")
def test_a_training_becomes_a_row_that_is_not_measured_again_until_its_sizes_change(tmp_path: Path) -> None:
    scale = replace(QUICK, batch_size=64)
    run = Run("fashion", "progressive", 2, 0, 2e-3, 0.5, 1, None)
    row = trained(run, scale, tmp_path)
    assert row["steps"] == 4
    assert len(row["prefixes"]) == 2
    assert row["top1"] == row["prefixes"][-1]
    assert is_measured({run.name: row}, run, scale)
    assert not is_measured({run.name: row}, run, replace(scale, hidden=24))
    assert not is_measured({}, run, scale)


@pytest.mark.usefixtures("random_images")
def test_both_roads_start_from_the_weights_of_the_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roads, "_PROBED", 2)
    twin, scratch = (Run("fashion", way, 2, 0, 2e-3, 0.5, 1, None) for way in ("serial", "joint"))
    row = roads.travelled(roads.Road(twin, scratch), replace(QUICK, refit=100), _row(0.5, seconds=0.01), tmp_path)
    assert (tmp_path / "fashion-serial-2-0-1.pt").exists()
    assert set(row) >= {"as_is", "refitted", "healed", "tuned"}
    assert row["healed"]["steps"] == 2
    assert row["tuned"]["steps"] == 4


def test_the_serial_network_of_equal_latency_is_the_deepest_that_is_no_slower() -> None:
    times = {"eager": {"serial": {"1": 1.0, "2": 1.9, "3": 2.1}, "folded": {"8": 2.0}}}
    assert equal_depths(times, 8) == {"eager": 2}


def test_curves_cross_on_a_line_between_two_counts_or_not_at_all() -> None:
    flat = dict.fromkeys((1, 2, 4), 3.0)
    assert crossing({1: 1.0, 2: 2.0, 4: 4.0}, flat) == 3.0
    assert crossing({1: 1.0, 2: 1.5, 4: 2.0}, flat) is None
    assert crossing({1: 5.0, 2: 6.0, 4: 7.0}, flat) == 1.0


def test_all_forms_of_a_shape_compute_alike_on_as_many_layers() -> None:
    forms = SHAPE.forms(3)
    with torch.no_grad():
        looped, fused, folded = (forms[name](SHAPE.image(2)).shape for name in ("looped", "fused", "folded"))
    assert looped == fused == folded
    assert len({sum(p.numel() for p in forms[name].parameters()) for name in ("serial", "looped", "fused")}) == 1


def test_scores_are_percents_of_the_seeds_that_are_there() -> None:
    length = Length(SCALE, 1, _results())
    assert length.scores("fashion", "joint", 1) == pytest.approx([70, 71])
    assert length.differences("fashion", "progressive") == pytest.approx([2, 2])
    assert Length(SCALE, 8, _results()).scores("fashion", "joint") == []
    assert [told([]), told([84.0]), told([84.0, 86.0])] == ["not measured", "84.00 (one seed)", "85.00 ± 1.41"]


def test_what_is_shown_is_the_longest_training_of_which_most_seeds_are_measured() -> None:
    results = _results()
    both, needed = replace(SCALE, lengths=(1, 4)), (("fashion", "serial", 2), ("fashion", "joint", 2))
    for seed in SCALE.seeds:
        results[f"fashion/serial/2/{seed}/4"] = _row(0.9)
    found = fullest(results, both, *needed)
    assert found is not None
    assert found.epochs == 1
    for seed in SCALE.seeds:
        results[f"fashion/joint/2/{seed}/4"] = _row(0.9)
    found = fullest(results, both, *needed)
    assert found is not None
    assert found.epochs == 4
    assert fullest({}, both, *needed) is None


def test_the_page_says_how_far_each_way_is_from_its_twin_and_has_figures_beside_it(tmp_path: Path) -> None:
    write_page(_results(), SCALE, tmp_path / "para-former.md")
    text = (tmp_path / "para-former.md").read_text()
    assert "| Fashion-MNIST | Para-Former, progressive | 1,234 | 10 | 82.50 ± 0.71 | 82.00, 83.00 | 60 |" in text
    assert "- Fashion-MNIST, 10 steps: progressive training ends +2.00 ± 0.00 points from the twin" in text
    assert "| Fashion-MNIST | 10 | progressive | 81.50 ± 0.00 | 82.00 ± 0.00 |" in text
    assert "| 10 | converted, refitted, healed | 70.00 ± 0.00 | 1.0 | 2.0 |" in text
    assert all((tmp_path / f"para-former-{name}.svg").stat().st_size for name in ("accuracy", "time"))


def test_verdicts_follow_from_the_rows() -> None:
    before = {claim.text: claim.verdict for claim in claims({}, Scale())}
    assert set(before.values()) == {MISSING, UNCHECKED}
    after = {claim.text: claim for claim in claims(_results(), SCALE)}
    more = after["More accurate than the serial ViT, by up to 2.39 points."]
    assert (more.verdict, "+2.00 ± 0.00" in more.evidence) == (HOLDS, True)
    dropped = after["A residual network is a sum of terms, so what the terms read of each other can be dropped."]
    assert (dropped.verdict, "keeps 30.00 ± 0.00 when" in dropped.evidence) == (FAILS, True)
