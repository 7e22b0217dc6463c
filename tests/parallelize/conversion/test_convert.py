"""The main job from Python: what is written, that it can be replayed, and that its numbers are those of the files."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import parallelize
import parallelize.conversion.making
import parallelize.conversion.scheduling
from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.conversion.convert import Conversion, convert
from parallelize.conversion.notes import notes
from parallelize.conversion.options import ConvertOptions
from parallelize.conversion.result import Result
from parallelize.data import load_samples
from parallelize.healing.options import HealOptions
from parallelize.measuring.written import TOLERANCE
from parallelize.metrics import predict, score
from parallelize.models.source import Data
from parallelize.planning.options import PlannerOptions
from passes.errors import CheckError, ParallelizeError
from passes.plan import Plan
from tests.parallelize.conversion.conversions import SeenError, two_blocks
from tests.parallelize.small_models import images, pairs

OPTIONS = ConvertOptions(depth=1, rounds=1, refit="affine")
HEALING = HealOptions(steps=40, batch_size=16, evaluate_every=10, learning_rate=3e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, count, seed in (("fit", 60, 1), ("test", 30, 2)):
        samples = images(count, seed, labelled=True)
        assert samples.labels is not None
        np.savez(folder / f"{name}.npz", images=samples.arrays["images"].numpy(), labels=samples.labels.numpy())
    return folder


@pytest.fixture(scope="module")
def conversion(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    return convert(
        two_blocks(),
        tmp_path_factory.mktemp("out") / "first",
        inputs=data / "fit.npz",
        test_inputs=data / "test.npz",
        labels="labels",
        options=OPTIONS,
    )


def outputs(path: Path, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        result: Tensor = torch.export.load(path).module()(inputs)
    return result


def test_the_written_model_has_the_scores_of_the_report(conversion: Conversion, data: Path) -> None:
    judge = load_samples(data / "test.npz", two_blocks().inputs, "labels")
    pixels = judge.arrays["images"]
    ours = [outputs(conversion.output / "model.pt2", pixels)]
    scores = score(ours, predict(two_blocks().module, judge), judge.labels)
    reported = conversion.report["rewrite, refitted"].scores
    assert reported.kl == pytest.approx(scores.kl, rel=1e-3)
    assert reported.top1 == pytest.approx(scores.top1)
    assert reported.samples == len(judge)


@pytest.mark.slow
def test_the_search_is_as_it_was_asked_for(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def search(*arguments: Any) -> None:
        seen.append(arguments[4])
        raise SeenError

    monkeypatch.setattr(parallelize.conversion.scheduling, "Planner", search)
    options = replace(OPTIONS, seed=7, time_limit=5.0, refine=3)
    with pytest.raises(SeenError):
        convert(two_blocks(), tmp_path / "out", inputs=data / "fit.npz", options=options)
    file = tmp_path / "out.search.resume"
    assert seen == [PlannerOptions(refit="affine", seed=7, time_limit=5.0, refine=3, resume=file)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "logits"),
    [
        (None, True),
        pytest.param("disagreement", True, marks=pytest.mark.slow),
        pytest.param("cosine", False, marks=pytest.mark.slow),
        pytest.param("relative-l2", False, marks=pytest.mark.slow),
    ],
)
def test_outputs_are_healed_by_kl_where_the_metric_reads_logits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str | None, logits: bool
) -> None:
    def build(*arguments: Any) -> None:
        raise SeenError(arguments[-1].keywords["logits"])

    monkeypatch.setattr(parallelize.conversion.making, "each_network", build)
    options = replace(OPTIONS, plan=pairs("none", 2), depth=None, heal=HEALING, metric=metric)
    with pytest.raises(SeenError, match=str(logits)):
        convert(two_blocks(), tmp_path / "out", inputs=data / "fit.npz", options=options)


def test_the_onnx_is_the_written_model_at_any_batch(conversion: Conversion) -> None:
    session = OnnxRuntime(conversion.output / "model.onnx", 1)
    for count in (1, 3, 8):
        pixels = images(count, count).arrays["images"]
        expected = outputs(conversion.output / "model.pt2", pixels)
        torch.testing.assert_close(session([pixels])[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_what_was_written_is_loaded_as_the_module_that_it_is(conversion: Conversion, data: Path) -> None:
    pixels = load_samples(data / "test.npz", conversion.program.inputs).arrays["images"][:5]
    for backend in ("torch", "onnxruntime"):
        with parallelize.load(conversion.output, backend=backend) as found:
            assert torch.allclose(found(images=pixels), outputs(conversion.output / "model.pt2", pixels), atol=1e-4)
            assert (found.plan, found.report) == (conversion.plan, conversion.report)


def test_a_replayed_plan_gives_the_same_tensors(conversion: Conversion, data: Path, tmp_path: Path) -> None:
    plan = Plan.from_json((conversion.output / "plan.json").read_text())
    again = convert(
        two_blocks(),
        tmp_path / "out",
        inputs=data / "fit.npz",
        test_inputs=data / "test.npz",
        options=ConvertOptions(plan=plan, rounds=1),
    )
    assert (again.output / "plan.json").read_bytes() == (conversion.output / "plan.json").read_bytes()
    first, second = (torch.export.load(c.output / "model.pt2").state_dict for c in (conversion, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_two_runs_with_one_seed_agree_to_the_bit(conversion: Conversion, data: Path, tmp_path: Path) -> None:
    again = convert(
        two_blocks(),
        tmp_path / "out",
        inputs=data / "fit.npz",
        test_inputs=data / "test.npz",
        labels="labels",
        options=OPTIONS,
    )
    assert (again.output / "plan.json").read_bytes() == (conversion.output / "plan.json").read_bytes()
    first, second = (torch.export.load(c.output / "model.pt2").state_dict for c in (conversion, again))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_report_says_where_and_on_what_it_was_measured(conversion: Conversion) -> None:
    report = conversion.report
    written = (conversion.output / "report.json").read_text()
    assert written == report.to_json()
    assert Result.from_json(written) == report
    assert (report.data.random, report.data.batch) == (False, 1)
    assert (report.data.fit, report.data.held_out, report.data.judge) == (48, 12, 30)
    assert all(network.onnx_against_graph.error <= 1e-3 for network in report.networks)
    serial, *others = report.networks
    assert (serial.name, serial.depth_blocks, serial.scores.kl) == ("serial", 2, 0.0)
    assert {network.depth_blocks for network in others} == {1}
    assert max(network.critical_gemms for network in others) < serial.critical_gemms


def test_every_number_of_the_report_has_its_interval(conversion: Conversion) -> None:
    measured = {"kl", "relative-l2", "cosine", "disagreement", "top1-drop"}
    for network in conversion.report.networks:
        assert set(network.errors) == set(network.error_intervals) == measured
        assert set(network.values) == set(network.value_intervals) == {"top1-drop"}
        assert network.values["top1-drop"] == network.scores.top1
        for numbers, intervals in (
            (network.errors, network.error_intervals),
            (network.values, network.value_intervals),
        ):
            assert all(intervals[name][0] <= number <= intervals[name][1] for name, number in numbers.items())
    assert conversion.report.intervals.confidence == 0.95
    low, high = conversion.report["rewrite, refitted"].error_intervals["kl"]
    assert f"{low:.4f}..{high:.4f}" in (conversion.output / "report.html").read_text()


def test_diagrams_and_page_are_drawn(conversion: Conversion) -> None:
    before, after = ((conversion.output / f"{name}.svg").read_text() for name in ("before", "after"))
    page = (conversion.output / "report.html").read_text()
    assert before.lstrip().startswith("<")
    assert before != after
    assert "<table>" in page
    assert before in page


@pytest.mark.slow
def test_a_budget_is_kept_on_held_out_samples(data: Path, tmp_path: Path) -> None:
    generous = convert(
        two_blocks(), tmp_path / "a", inputs=data / "fit.npz", options=ConvertOptions(max_error=10.0, rounds=1)
    )
    assert generous.plan.stacks[0].depth == 2  # terms: one block
    assert all(step.held_out.kl is not None and step.held_out.kl <= 10.0 for step in generous.report.search[-1:])
    with pytest.raises(CheckError, match="budget"):
        convert(two_blocks(), tmp_path / "b", inputs=data / "fit.npz", options=ConvertOptions(max_error=0.0, rounds=1))
    assert not (tmp_path / "b").exists()


@pytest.fixture(scope="module")
def healed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    options = ConvertOptions(plan=pairs("affine", 2), rounds=1, heal=HEALING)
    return convert(two_blocks(), tmp_path_factory.mktemp("healed") / "out", inputs=data / "fit.npz", options=options)


@pytest.mark.slow
def test_the_healed_network_is_one_more_row_and_is_what_is_written(healed: Conversion, data: Path) -> None:
    ours, before = healed.report["rewrite, healed"], healed.report["rewrite, refitted"]
    assert healed.report.product == ours
    names = healed.report.names
    assert names.index("rewrite, healed") == names.index("rewrite, refitted") + 1
    assert ours.errors["kl"] < before.errors["kl"]
    assert (ours.critical_gemms, ours.parameters) == (before.critical_gemms, before.parameters)
    pixels = load_samples(data / "fit.npz", two_blocks().inputs).arrays["images"]
    written = outputs(healed.output / "model.pt2", pixels)
    torch.testing.assert_close(written, healed.program.module(pixels), rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(written, two_blocks().module(pixels), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_report_says_how_it_was_healed(healed: Conversion) -> None:
    content = healed.report.healing
    assert content is not None
    assert content.options.steps == 40
    assert (content.steps, content.ending) == (40, "finished")
    assert content.after < content.before
    assert min(evaluation.error for evaluation in content.history) == content.after
    assert "healing" in (healed.output / "report.html").read_text()
    assert not (healed.output.parent / "out.resume").exists()
    assert notes(healed.report) == [note for note in notes(healed.report) if "Healing" not in note]


@pytest.mark.slow
def test_a_conversion_that_fails_after_the_healing_keeps_its_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ConvertOptions(plan=pairs("affine", 2), rounds=1, heal=replace(HEALING, steps=2))
    monkeypatch.setitem(TOLERANCE, "fp32", -1.0)
    with pytest.raises(CheckError):
        convert(two_blocks(), tmp_path / "out", inputs=data / "fit.npz", options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["out.resume"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (ConvertOptions(max_error="1%", metric="kl"), "has no meaning for kl"),
        (ConvertOptions(max_error="1%"), "has no meaning for kl"),
        (ConvertOptions(max_error="much"), "'much' is not a number"),
        (ConvertOptions(depth=2, metric="bleu"), "no metric 'bleu'"),
        (ConvertOptions(depth=2, metric="perplexity"), "perplexity needs one output"),
    ],
)
def test_budgets_and_metrics_without_a_meaning_are_refused(
    data: Path, tmp_path: Path, options: ConvertOptions, sentence: str
) -> None:
    with pytest.raises(ParallelizeError, match=sentence):
        convert(two_blocks(), tmp_path / "out", inputs=data / "fit.npz", options=options)
    assert not (tmp_path / "out").exists()


def test_what_a_source_holds_beside_the_model_are_the_keywords_of_a_conversion() -> None:
    names = {part.name for part in fields(parallelize.Source)}
    assert {"model", *Data.__annotations__} == names
