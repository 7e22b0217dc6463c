"""The metrics by name: one file is one metric, and everything that lists, chooses, judges and shows them finds it."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from parallelize.conversion.result import MetricUsed
from parallelize.conversion.table import table
from parallelize.data import Samples
from parallelize.metrics import Judge, catalogue, find_metric, known_metrics, score
from parallelize.metrics.batch import Batch, Pair
from parallelize.metrics.choice import choose_metric
from parallelize.metrics.metric import Added, Column
from passes.errors import ParallelizeError
from passes.graph.agreement import scale
from tests.parallelize.conversion.small_result import network, result
from tests.parallelize.small_models import images, vision

ROOT = Path(__file__).resolve().parents[3]
TOY = """
from parallelize.metrics.metric import Column, Default, Metric

def largest_moves(batch):
    if batch.classes is None:
        return None
    ours, teacher = batch.classes.logits
    away = (ours - teacher).abs().amax(1)
    return away, away.new_ones(len(away))

METRIC = Metric(
    "largest-move",
    "mean over samples of the largest change of a logit",
    largest_moves,
    Column("largest\\nmove", ".3f", None),
    place=5,
    reads="classes",
    percent_of=None,
    needs=("one output of logits (samples, classes)", "Use --metric relative-l2."),
    default=Default("for toys", lambda outputs: outputs[0].shape[-1] == 10),
)
"""
NAMES = ["kl", "relative-l2", "cosine", "disagreement", "differing", "top1-drop", "perplexity"]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a metric whose file lies beside those of the catalogue."""
    (tmp_path / "toy_metric.py").write_text(TOY)
    monkeypatch.setattr(catalogue, "__path__", [*catalogue.__path__, str(tmp_path)])
    yield "largest-move"
    sys.modules.pop("parallelize.metrics.catalogue.toy_metric", None)


def test_metrics_are_listed_in_the_order_of_their_places() -> None:
    assert list(known_metrics()) == NAMES


def test_one_more_file_is_one_more_name(toy: str) -> None:
    assert list(known_metrics()) == [toy, *NAMES]
    with pytest.raises(ParallelizeError) as caught:
        find_metric("bleu")
    assert f"Use one of {toy}, kl," in caught.value.hint


def test_a_metric_of_one_file_is_chosen_judged_and_refused_where_it_cannot_be_measured(toy: str) -> None:
    assert choose_metric(None, vision(), images(5, 0)).name == toy
    found = Judge(vision().module, images(5, 0), toy).score(vision(seed=1).module)
    assert found.error(toy) > 0
    assert found.error(toy) == pytest.approx(float(found.columns[toy].ours.mean()))
    assert found.interval(toy)[0] < found.error(toy) < found.interval(toy)[1]
    graph = fx.Graph()
    graph.output((graph.placeholder("x"),))
    with pytest.raises(ParallelizeError, match=r"^The metric largest-move needs one output of logits"):
        Judge(fx.GraphModule({}, graph), Samples({"x": torch.zeros(3, 2, 2)}), toy)


def test_a_metric_of_one_file_has_its_column_in_the_table(toy: str) -> None:
    errors = {"errors": {toy: 0.12345}, "error_intervals": {toy: (0.1, 0.2)}}
    shown = table(result(networks=(network("serial", **errors),), metric=MetricUsed(toy, "", None)))
    column = next(column for column in shown.columns if column.header == "largest\nmove")
    assert list(column.cells) == ["0.123"]
    assert "95 %" not in str([column.header for column in shown.columns])


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_says_what_it_is_and_how_tables_show_it(name: str) -> None:
    metric = known_metrics()[name]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert metric.meaning
    assert isinstance(metric.column, Column)
    assert metric.column.heading.count("\n") <= 1
    assert float(format(0.5, metric.column.number).rstrip("%"))


def value(name: str, batch: Batch) -> float | None:
    """What a metric makes of one batch; None where the batch lacks what it reads."""
    metric = known_metrics()[name]
    measured = metric.measure(batch)
    if measured is None:
        return None
    assert all(part.dtype == torch.float64 and part.shape == (len(batch.pairs[0].ours),) for part in measured)
    return float(metric.value(Added(*(part.sum() for part in measured))))


def batch(ours: object, teacher: object, real: object = None, **more: Any) -> Batch:
    y, t = (torch.as_tensor(each) for each in (ours, teacher))
    mask = None if real is None else torch.as_tensor(real)
    return Batch([Pair(y, t, mask, scale(t, mask))], **more)


HALVES, QUARTERS = [[0.0, 0.0]], [[0.0, math.log(3)]]  # logits of 1/2, 1/2 and of 1/4, 3/4
TWO_TOKENS = [[[0.0, math.log(3)], [0.0, 0.0], [0.0, 0.0]]]
IDS = torch.tensor([[0, 1, 0]])


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("kl", batch(QUARTERS, HALVES), 0.5 * math.log(4 / 3)),  # 1/2 log(1/2 / 1/4) + 1/2 log(1/2 / 3/4)
        ("kl", batch(HALVES, [[0.0, -math.inf]]), math.log(2)),
        ("kl", batch([[0.0, -math.inf]], HALVES), math.inf),
        ("kl", batch([[math.nan, 0.0]], HALVES), math.inf),
        ("relative-l2", batch([[3.0, 4.0]], [[0.0, 4.0]]), 0.75),
        ("relative-l2", batch([[1, 2, 3, 4]], [[1, 2, 3, 5]]), 0.5),
        ("relative-l2", batch([[3.0, 9.0]], [[4.0, 1.0]], [[True, False]]), 0.25),
        ("cosine", batch([[1.0, 1.0], [2.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]), (1 - math.sqrt(0.5)) / 2),
        ("cosine", batch([[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [-1.0, 0.0]]), 2.0),
        ("cosine", batch([[True, False]], [[True, True]]), 0.5),
        ("disagreement", batch([[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0], [1.0, 2.0]]), 0.5),
        ("disagreement", batch(TWO_TOKENS, [[[1.0, 0.0]] * 3], [[[True], [True], [False]]], by_token=True), 0.5),
        ("differing", batch([[1, 2, 3, 4]], [[1, 2, 3, 5]]), 0.25),
        ("differing", batch([[1, 9]], [[1, 2]], [[True, False]]), 0.0),
        ("top1-drop", batch([[1.0, 2.0], [2.0, 1.0]], HALVES * 2, labels=torch.tensor([1, 1])), 0.5),
        ("top1-drop", batch([[math.nan, 2.0]], HALVES, labels=torch.tensor([0])), 0.0),
        ("perplexity", batch(TWO_TOKENS, TWO_TOKENS, tokens=IDS), math.sqrt(4 / 3 * 2)),
        ("perplexity", batch(TWO_TOKENS, TWO_TOKENS, [[[True], [True], [False]]], tokens=IDS), 4 / 3),
        ("perplexity", batch([[[math.nan, 0.0]] * 3], TWO_TOKENS, tokens=IDS), math.inf),
    ],
)
def test_a_metric_has_the_value_that_is_found_by_hand(name: str, given: Batch, expected: float) -> None:
    assert value(name, given) == pytest.approx(expected)


def test_a_metric_measures_nothing_where_what_it_reads_is_not_there() -> None:
    numbers, codes = batch([[[1.0]]], [[[1.0]]]), batch([[1, 2]], [[1, 2]])
    assert [name for name in NAMES if value(name, numbers) is not None] == ["relative-l2", "cosine"]
    assert [name for name in NAMES if value(name, codes) is not None] == ["relative-l2", "cosine", "differing"]


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        ([torch.zeros(2, 3)], "kl"),
        ([torch.zeros(2, 4, 3)], "relative-l2"),
        ([torch.zeros(2, 3, dtype=torch.int64)], "differing"),
        ([torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2)], "relative-l2"),
    ],
)
def test_the_first_default_that_suits_outputs_is_taken(outputs: list[torch.Tensor], name: str) -> None:
    suiting = [m.name for m in known_metrics().values() if m.default is not None and m.default.suits(outputs)]
    assert suiting[0] == name


def test_only_networks_of_their_own_value_say_which_is_better() -> None:
    assert {name: m.better for name, m in known_metrics().items() if m.better} == {
        "top1-drop": "higher",
        "perplexity": "lower",
    }
    teacher = torch.eye(3)
    found = score([teacher.flip(1)], [teacher], torch.arange(3))
    assert found.value("top1-drop") == pytest.approx(1 / 3)
    assert found.error("top1-drop") == pytest.approx(2 / 3)


def test_the_documentation_names_every_metric_in_order() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    part = text.split("| `--metric` | error |")[1].split("\n\n")[0]
    named = re.findall(r"^\| `([^`]+)`", part, re.MULTILINE)
    assert named == [*NAMES, "module:function"]
