"""A judge: the teacher runs once, networks are scored batch by batch, what cannot be measured is refused at once."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from parallelize.data import Samples
from parallelize.data import buffer as buffer_of_jobs
from parallelize.data.buffer import Buffer
from parallelize.metrics import Judge, judge, known_metrics, predict, score
from parallelize.metrics.scores import Scores
from parallelize.models.capture import capture
from parallelize.models.finiteness import refuse_not_finite
from passes.errors import ParallelizeError
from tests.parallelize.small_models import images, language, text, vision

IMAGES = images(7, seed=0, labelled=True)


def _student() -> fx.GraphModule:
    return vision(seed=1).module


def _graph(change: str) -> fx.GraphModule:
    """x and what an operation makes of it, as two outputs."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((x, graph.call_method(change, (x,))))
    return fx.GraphModule({}, graph)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_scores_are_those_of_all_outputs_at_once_in_any_batches(batch_size: int) -> None:
    found = Judge(vision().module, IMAGES, "kl", batch_size).score(_student())
    expected = score(predict(_student(), IMAGES), predict(vision().module, IMAGES), IMAGES.labels)
    for metric in ("kl", "relative-l2", "cosine", "disagreement", "top1-drop"):
        assert found.error(metric) == pytest.approx(expected.error(metric), rel=1e-4)
    assert found.samples == 7


def test_the_teacher_runs_over_the_samples_once_and_never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[fx.GraphModule] = []
    run = judge.flat_outputs
    monkeypatch.setattr(judge, "flat_outputs", lambda module, inputs: ran.append(module) or run(module, inputs))
    teacher, student = vision().module, _student()
    ours = Judge(teacher, IMAGES, "kl", batch_size=7)
    before = len(ran)
    assert ours.score(student) == ours.score(student)
    assert ours.serial.error("kl") == 0
    assert ran[before:] == [student, student]


def test_a_teacher_whose_answers_are_known_is_not_run_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    program = vision()
    known = refuse_not_finite(program, IMAGES)
    monkeypatch.setattr(judge, "_run", None)
    ours = Judge(program.module, known.take([4, 0, 2]), "kl")
    monkeypatch.undo()
    assert ours.score(_student()) == Judge(program.module, IMAGES.take([4, 0, 2]), "kl").score(_student())


def test_outputs_made_elsewhere_come_in_batches_of_any_size_and_may_end_early() -> None:
    (outputs,) = predict(_student(), IMAGES)
    ours = Judge(vision().module, IMAGES, "top1-drop")
    whole = ours.score_outputs([[outputs]])
    assert ours.score_outputs(iter([(outputs[:2],), (outputs[2:6],), (outputs[6:],)])) == whole
    first = ours.score_outputs([[outputs[:2]], [outputs[2:3]]])
    assert first.samples == 3
    assert first == Judge(vision().module, IMAGES.head(3), "top1-drop").score_outputs([[outputs[:3]]])


def test_the_serial_network_has_errors_of_zero_and_its_own_values() -> None:
    serial = Judge(language().module, text(5, 0), "perplexity").serial
    assert serial.error("perplexity") == 0
    assert serial.value("perplexity") == serial.serial("perplexity")


def test_perplexity_is_that_of_the_real_tokens_of_the_model() -> None:
    samples = text(6, 0)
    (logits,) = predict(language().module, samples)
    ids, mask = samples.arrays["input_ids"], samples.arrays["attention_mask"].bool()
    nats = -logits[:, :-1].double().log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    expected = math.exp(float(nats[mask[:, 1:]].mean()))
    assert Judge(language().module, samples, "perplexity", 4).serial.value("perplexity") == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["kl", "disagreement", "perplexity", "relative-l2", "cosine"])
def test_what_the_model_makes_of_padding_moves_no_metric(metric: str) -> None:
    samples = text(6, 0)
    ours = Judge(language().module, samples, metric)
    (logits,) = predict(language().module, samples)
    padding = (samples.arrays["attention_mask"] == 0)[..., None]
    assert ours.score_outputs([[logits + 100 * padding]]) == ours.serial
    moved = logits.clone()
    moved[:, 0, 0] += 100
    assert ours.score_outputs([[moved]]).error(metric) > 0


def test_logits_of_tokens_are_compared_as_logits_only_where_that_is_asked_for() -> None:
    assert Judge(language().module, text(3, 0), "kl").serial.has("disagreement")
    assert not Judge(language().module, text(3, 0)).serial.has("kl")


class Answers(nn.Module):
    """A number for each token, and as many classes as the first sample has tokens."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * ids.float() * (mask >= 0), ids.float().mean(1, keepdim=True).expand(-1, 6)


def test_an_output_of_two_axes_is_masked_where_it_has_the_masks_free_dimension_and_never_by_chance() -> None:
    dims = ({0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"})
    ids = torch.ones(2, 6, dtype=torch.int64)
    program = capture(Answers().eval(), (ids, ids), dynamic=dims, origin="answers")
    samples = Samples({"ids": torch.ones(3, 6).long(), "mask": torch.tensor([[1, 1, 1, 0, 0, 0]] * 3)}, mask="mask")
    ours = Judge(program.module, samples)
    answers, classes = predict(program.module, samples)
    assert ours.score_outputs([[answers + samples.arrays["mask"].logical_not() * 9, classes]]).relative_l2 == 0
    changed = classes.clone()
    changed[:, 5] += 1
    assert ours.score_outputs([[answers, changed]]).relative_l2 > 0


class TokensFirst(nn.Module):
    """(samples, tokens) -> (tokens, samples, 2), as recurrent models have it, and the mean of each sample."""

    def forward(self, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.stack([x, 2 * x], 2)
        return y.transpose(0, 1), (x * keep).sum(1, keepdim=True)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_samples_are_found_on_any_axis_and_padding_with_them(batch_size: int) -> None:
    dims = ({0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"})
    x, keep = torch.arange(1.0, 21).reshape(5, 4), torch.tensor([[0, 1, 1, 1]] * 5)
    program = capture(TokensFirst().eval(), (x[:2], keep[:2]), dynamic=dims, origin="tokens first")
    ours = Judge(program.module, Samples({"x": x, "keep": keep}, mask="keep"), batch_size=batch_size)
    by_token, mean = program.flat_outputs(program.module(x, keep))
    spoiled = by_token.clone()
    spoiled[0] = torch.nan
    assert ours.score_outputs([[spoiled, mean]]) == ours.serial
    moved = by_token.clone()
    moved[3, 4] += 1
    assert ours.score_outputs([[moved, mean]]).columns["relative-l2"].ours.tolist() == [0, 0, 0, 0, 2]
    assert ours.serial.columns["relative-l2"].weight[0] == (x[0, 1:].square().sum() * 5 + x[0, 1:].sum().square())


def test_samples_folded_into_rows_are_unfolded() -> None:
    samples = Samples({"x": torch.arange(24.0).reshape(4, 3, 2)})
    graph = fx.Graph()
    graph.output((graph.call_method("flatten", (graph.placeholder("x"), 0, 1)),))
    folded = Judge(fx.GraphModule({}, graph), samples, batch_size=3)
    assert folded.serial.samples == 4
    moved = samples.arrays["x"].flatten(0, 1).clone()
    moved[6:9] += 1
    columns = folded.score_outputs([[moved[:6]], [moved[6:]]]).columns
    assert columns["relative-l2"].ours.tolist() == [0, 0, 6, 0]


@pytest.mark.parametrize("change", ["sum", "t"])
def test_an_output_without_an_axis_of_samples_is_refused(change: str) -> None:
    with pytest.raises(ParallelizeError, match="first axis is not that of the samples"):
        Judge(_graph(change), Samples({"x": torch.zeros(7, 3)}))


def test_large_outputs_come_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    run, sizes = judge.flat_outputs, []
    monkeypatch.setattr(judge, "flat_outputs", lambda m, inputs: sizes.append(len(inputs[0])) or run(m, inputs))
    ours = Judge(vision().module, replace(IMAGES, buffer=Buffer(64 * 12)))
    sizes.clear()
    ours.score(_student())
    assert sizes == [2, 2, 2, 1]


@pytest.mark.parametrize("metric", ["kl", "perplexity"])
def test_scores_are_the_same_with_the_teachers_outputs_in_a_file(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, samples = (vision(), IMAGES) if metric == "kl" else (language(), text(9, 0))

    def scored() -> tuple[Scores, Scores, int]:
        ours = Judge(program.module, replace(samples, buffer=Buffer()), metric, batch_size=4)
        return ours.score(program.module), ours.serial, ours.samples.buffer.in_file

    memory = scored()
    monkeypatch.setattr(buffer_of_jobs, "HELD", 0)
    file = scored()
    assert file[:2] == memory[:2]
    assert file[2] > memory[2] == 0


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ("top1-drop", "The metric top1-drop needs labels"),
        ("perplexity", "The metric perplexity needs one output of logits"),
        ("bleu", "There is no metric 'bleu'"),
    ],
)
def test_a_metric_that_cannot_be_measured_is_refused_at_once(metric: str, sentence: str) -> None:
    with pytest.raises(ParallelizeError, match=sentence):
        Judge(vision().module, images(3, 0), metric)


@pytest.mark.parametrize("metric", ["kl", "disagreement"])
def test_metrics_of_logits_are_refused_for_other_outputs(metric: str) -> None:
    with pytest.raises(ParallelizeError, match=f"The metric {metric} needs one output of logits"):
        Judge(_graph("neg"), Samples({"x": torch.zeros(3, 2)}), metric)


def test_every_metric_is_measured_by_some_judge() -> None:
    seen = {name for name in known_metrics() if Judge(vision().module, IMAGES, "kl").serial.has(name)}
    seen |= {name for name in known_metrics() if Judge(language().module, text(3, 0), "perplexity").serial.has(name)}
    classes = score([torch.arange(3)], [torch.arange(3)])
    assert seen | {name for name in known_metrics() if classes.has(name)} == set(known_metrics())


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_predictions_do_not_depend_on_the_batches(batch_size: int) -> None:
    (outputs,) = predict(vision().module, IMAGES, batch_size)
    assert outputs.shape == (7, 10)
    assert not outputs.requires_grad
    torch.testing.assert_close(outputs, vision().module(IMAGES.arrays["images"]))


def test_predictions_of_a_model_with_several_outputs_stay_apart() -> None:
    samples = Samples({"x": torch.arange(5.0)[:, None]})
    first, second = predict(_graph("neg"), samples, 2)
    assert torch.equal(first, samples.arrays["x"])
    assert torch.equal(second, -samples.arrays["x"])
