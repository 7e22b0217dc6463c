"""A metric of the user's own: called once with everything, and a function that is wrong gets one sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.metrics import Judge, find_metric, known_metrics, predict
from parallelize.metrics.own import own_metric
from passes.errors import ParallelizeError
from tests.parallelize.small_models import images, vision

SAMPLES = images(5, 0, labelled=True)
CODE = """
import torch
import metric_neighbour


def closeness(outputs, teacher_outputs, batch):
    import metric_late
    return metric_neighbour.sign * (outputs[0] - teacher_outputs[0]).square().sum(1)


def wide(outputs, teacher_outputs, batch):
    return outputs[0]


def single(outputs, teacher_outputs, batch):
    return outputs[0].mean()


def number(outputs, teacher_outputs, batch):
    return 1.0


def broken(outputs, teacher_outputs, batch):
    return outputs[3]


def undefined(outputs, teacher_outputs, batch):
    scores = outputs[0].sum(1)
    scores[2] = torch.nan
    return scores


constant = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A file of functions, one of which imports a neighbour when it is called."""
    (tmp_path / "metric_neighbour.py").write_text("sign = -1")
    (tmp_path / "metric_late.py").write_text("")
    (tmp_path / "mine.py").write_text(CODE)
    yield tmp_path / "mine.py"
    for name in ("mine", "metric_neighbour", "metric_late"):
        sys.modules.pop(name, None)


def test_the_error_is_the_teachers_mean_score_minus_ours(file: Path) -> None:
    metric = find_metric(f"{file}:closeness")
    found = Judge(vision().module, SAMPLES, metric, batch_size=2).score(vision(seed=1).module)
    ours, teacher = predict(vision(seed=1).module, SAMPLES)[0], predict(vision().module, SAMPLES)[0]
    expected = -float((ours - teacher).square().sum(1).mean())
    assert found.value(metric) == pytest.approx(expected, rel=1e-4)
    assert found.serial(metric) == 0
    assert found.error(metric) == pytest.approx(-expected, rel=1e-4)
    low, high = found.interval(metric)
    assert low < -expected < high


def test_the_function_gets_the_whole_set_at_once_with_inputs_and_labels() -> None:
    calls: list[tuple[list[Tensor], list[Tensor], dict[str, Tensor]]] = []

    def ranks(outputs: list[Tensor], teacher: list[Tensor], batch: dict[str, Tensor]) -> Tensor:
        calls.append((outputs, teacher, batch))
        return outputs[0].sum(1).argsort().argsort()

    ours = Judge(vision().module, SAMPLES, own_metric("ranks", ranks), batch_size=2)
    ours.score(vision(seed=1).module)
    ours.score(vision(seed=1).module)
    assert [len(outputs[0]) for outputs, _, _ in calls] == [5, 5, 5]
    outputs, teacher, batch = calls[-1]
    assert torch.equal(outputs[0], predict(vision(seed=1).module, SAMPLES, 2)[0])
    assert torch.equal(teacher[0], predict(vision().module, SAMPLES, 2)[0])
    assert list(batch) == ["labels", "images"]
    assert torch.equal(batch["images"], SAMPLES.arrays["images"])


def test_the_first_samples_are_scored_as_a_set_of_their_own() -> None:
    metric = own_metric("place", lambda outputs, teacher, batch: torch.arange(len(batch["images"])) - len(teacher[0]))
    ours = Judge(vision().module, SAMPLES, metric)
    scores = ours.score_outputs([[predict(vision().module, SAMPLES)[0][:2]]])
    place = scores.columns["place"]
    assert place.serial is not None
    assert place.ours.tolist() == place.serial.tolist() == [-2, -1]


def test_an_input_named_labels_stays_an_input() -> None:
    seen: dict[str, Tensor] = {}

    def keep(outputs: list[Tensor], teacher: list[Tensor], batch: dict[str, Tensor]) -> Tensor:
        seen.update(batch)
        return outputs[0][:, 0]

    graph = fx.Graph()
    graph.output((graph.placeholder("labels"),))
    Judge(fx.GraphModule({}, graph), Samples({"labels": torch.ones(3, 2)}, torch.zeros(3)), own_metric("keep", keep))
    assert seen["labels"].shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("wide", "returned a tensor of shape 5x10 for 5 samples."),
        ("single", "returned a tensor of shape () for 5 samples."),
        ("number", "returned a float, not a tensor."),
        ("broken", "raised IndexError: list index out of range."),
        ("undefined", "returned nan as score 2."),
    ],
)
def test_a_function_that_is_wrong_is_refused_before_anything_is_scored(file: Path, name: str, sentence: str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        Judge(vision().module, SAMPLES, f"{file}:{name}")
    assert str(caught.value) == f"The metric {file}:{name} {sentence}"
    assert caught.value.hint


def test_outputs_that_are_not_a_number_are_within_no_budget_and_no_fault_of_the_function() -> None:
    metric = own_metric("sum", lambda outputs, teacher, batch: outputs[0].sum(1))
    scores = Judge(vision().module, SAMPLES, metric).score_outputs([[torch.full((5, 10), torch.nan)]])
    assert not scores.error(metric) <= 1e9


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("{file}:nothing", "has no 'nothing'"),
        ("{file}:constant", "is a int, not a function"),
        ("gone.py:f", "gone.py does not exist"),
        ("no_such_module:f", "no_such_module cannot be imported"),
        ("{file}", "There is no metric"),
    ],
)
def test_what_is_no_function_is_refused(file: Path, reference: str, sentence: str) -> None:
    with pytest.raises(ParallelizeError, match=sentence):
        find_metric(reference.format(file=file))


def test_names_of_the_catalogue_are_found_and_metrics_stand_for_themselves() -> None:
    assert all(find_metric(name) is metric for name, metric in known_metrics().items())
    assert find_metric(known_metrics()["kl"]) is known_metrics()["kl"]
