"""A captured model is cleaned before every rewrite: same numbers, each operator in one form."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from parallelize.models.capture import capture
from parallelize.models.clean import clean
from passes.registry import CLEANING, PASSES
from tests.passes.models import WIDTH, Function, mlps, normal, randomised, relative_error, text, tokens, wrong_metadata

aten = torch.ops.aten


def _forward(self: Function, x: Tensor) -> Tensor:
    x = (x.transpose(1, 2) + x.sin().transpose(1, 2)).transpose(1, 2)
    hidden = torch.addmm(self.shift, x.view(-1, WIDTH), self.matrix).view(*x.shape[:2], WIDTH)
    hidden = self.drop(hidden) * (1 + self.gain)
    hidden = torch.cat(hidden.chunk(2, 1), 1)
    pictures = self.norm(self.conv(hidden.transpose(1, 2))).swapaxes(1, 2)
    state = pictures + hidden.exp() * (hidden.exp() + torch.zeros(WIDTH, dtype=x.dtype))
    state = state + self.first(state)
    return state - self.second(state)


def _model() -> nn.Module:
    return randomised(
        Function(
            _forward,
            shift=normal(WIDTH),
            matrix=normal(WIDTH, WIDTH),
            gain=normal(WIDTH),
            drop=nn.Dropout(0.5),
            conv=nn.Conv1d(WIDTH, WIDTH, 3, padding=1),
            norm=nn.BatchNorm1d(WIDTH),
            first=nn.Linear(WIDTH, WIDTH),
            second=nn.Linear(WIDTH, WIDTH),
        )
    )


def test_every_clean_up_pass_runs_and_changes_rounding_alone() -> None:
    program = capture(_model(), (tokens(),))
    cleaned, records = clean(program, [tokens()])
    assert [record.name for record in records] == [step.name for step in CLEANING]
    assert all(record.exact and len(record.matches) == 1 and record.skipped == () for record in records)
    assert all(record.error is not None and record.error < 1e-10 for record in records)
    for batch in (1, 3):
        assert relative_error(cleaned.module(tokens(batch)), program.module(tokens(batch))) < 1e-10
        assert wrong_metadata(cleaned.module, tokens(batch)) == []


def test_what_is_left_has_one_form_of_each_operator() -> None:
    cleaned, _ = clean(capture(_model(), (tokens(),)))
    targets = [node.target for node in cleaned.module.graph.nodes if node.op == "call_function"]
    assert Counter(targets) == {
        aten.linear.default: 3,
        aten.conv1d.default: 1,
        aten.transpose.int: 2,
        aten.exp.default: 1,
        aten.mul.Tensor: 2,
        aten.add.Tensor: 4,
        aten.sin.default: 1,
        aten.neg.default: 1,
    }


def test_a_clean_program_stays_as_it_is() -> None:
    cleaned, _ = clean(capture(_model(), (tokens(),)))
    again, records = clean(cleaned, [tokens()])
    assert [record.matches for record in records] == [()] * len(CLEANING)
    assert text(again.module) == text(cleaned.module)


def test_without_a_probe_nothing_is_measured_and_the_program_keeps_all_else() -> None:
    program = capture(_model(), (tokens(),), origin="a model")
    before = text(program.module)
    cleaned, records = clean(program)
    assert {record.error for record in records} == {None}
    assert text(program.module) == before
    assert cleaned.origin == program.origin == "a model"


def test_a_model_without_anything_to_clean_keeps_its_graph() -> None:
    model, graph = mlps()
    cleaned, _ = clean(capture(model, (tokens(),)), [tokens()])
    assert text(cleaned.module) == text(graph)


def test_every_clean_up_pass_is_exact_and_can_be_asked_for_by_name() -> None:
    assert all(step.exact and PASSES[step.name] is type(step) for step in CLEANING)
