"""Several processes that share a training end where one does, however they share it, and go on from each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paraformer.training.shares import ALONE
from tests.paraformer.training.sharing import BRANCHED, Case, Stop, apart, result, stop_in_epoch, train_all
from tests.paraformer.training.striped import CONFIG
from tests.parallelize.rank_processes import ranks

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = 1e-10  # in float64

QUICK = {
    "samples": Case({"batch_size": 15, "accumulate": 2, "ema": 0.9, "patience": 1}, taught=True),
    "branches": Case({"objective": "progressive"}, replace(BRANCHED, branches=3, depth=3), branch_ranks=2),
    "texts": Case({"batch_size": 15, "epochs": 1}, text=True),
}
SLOW = {
    "serial": Case({"batch_size": 15}, CONFIG),
    "all prefixes": Case({"batch_size": 15, "objective": "progressive"}),
    "prefix after prefix": Case({"batch_size": 15, "objective": "progressive-steps"}),
    "prefix after prefix, by branches": Case(
        {"batch_size": 15, "objective": "progressive-steps", "accumulate": 2}, branch_ranks=2
    ),
    "summed": Case({"ema": 0.9}, replace(BRANCHED, merge="summed", pooling="cls"), branch_ranks=2),
    "mean": Case({}, replace(BRANCHED, merge="mean", branches=3, depth=6), branch_ranks=2),
    "grown": Case({"batch_size": 15}, kept=1),
    "grown, by branches": Case({"batch_size": 15, "patience": 1}, kept=2, branch_ranks=2),
    "grown, one rank with one branch of each": Case({"clip": 0.01}, kept=3, branch_ranks=2),
    "half precision": Case({"precision": "fp16"}, branch_ranks=2),
    "texts, by branches": Case({"objective": "progressive"}, text=True, taught=True, branch_ranks=2),
}


def _same_as_alone(size: int, folder: Path, cases: dict[str, Case]) -> None:
    ends = ranks(size, folder, train_all, cases, folder)
    assert [(end.code, end.said) for end in ends] == [(0, "")] * size
    for name, case in cases.items():
        alone = result(case.trainer(ALONE), folder / "alone.pt")
        for rank in range(size):
            found = torch.load(folder / f"{name}.rank{rank}", weights_only=False)
            assert apart(found, alone) < CLOSE, (name, rank)
        written = torch.load(folder / f"{name}.pt")["state_dict"]
        assert all(torch.equal(value, written[key]) for key, value in found["weights"].items())
    assert {path.suffix for path in folder.iterdir() if path.is_dir() or "resume" in path.name} == set()


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    _same_as_alone(2, tmp_path, QUICK)


@pytest.mark.slow
def test_two_processes_train_as_one_does_whatever_is_part_of_it(tmp_path: Path) -> None:
    _same_as_alone(2, tmp_path, SLOW)


@pytest.mark.slow
def test_four_processes_share_samples_and_branches(tmp_path: Path) -> None:
    rows = {name: replace(case, branch_ranks=2) for name, case in {**QUICK, **SLOW}.items() if case.config != CONFIG}
    _same_as_alone(4, tmp_path, {**rows, "a branch each": Case({"ema": 0.9}, branch_ranks=4), "serial": SLOW["serial"]})


GOING_ON = Case({"epochs": 3, "ema": 0.9, "patience": 3, "batch_size": 15, "objective": "progressive"})
BY_BRANCHES = replace(GOING_ON, branch_ranks=2)


def _stopped(size: int, folder: Path, case: Case, epoch: int) -> None:
    """A training of so many processes that was stopped in an epoch."""
    if size > 1:
        ends = ranks(size, folder, train_all, {"run": case}, folder, epoch)
        assert [(end.code, end.said) for end in ends] == [(0, "")] * size
        return
    trainer = case.trainer(ALONE)
    with pytest.raises(Stop):
        trainer.run(folder / "run.pt", stop_in_epoch(epoch, trainer.steps_per_epoch))


def _goes_on(folder: Path, *runs: tuple[int, Case]) -> None:
    """Each of some runs but the last is stopped in the epoch after the one before."""
    whole = result(GOING_ON.trainer(ALONE), folder / "whole.pt")
    for epoch, (size, case) in enumerate(runs[:-1], 2):
        _stopped(size, folder, case, epoch)
        assert (folder / "run.pt.resume").exists()
        assert (folder / "run.pt.resume.ranks").exists() == (size > 1)
    size, case = runs[-1]
    if size == 1:
        found = result(case.trainer(ALONE), folder / "run.pt")
    else:
        assert {end.code for end in ranks(size, folder, train_all, {"run": case}, folder)} == {0}
        found = torch.load(folder / "run.rank0", weights_only=False)
    assert apart(found, whole) < CLOSE
    assert [path.name for path in folder.iterdir() if "resume" in path.name] == []


def test_one_process_goes_on_with_what_two_have_kept(tmp_path: Path) -> None:
    _goes_on(tmp_path, (2, BY_BRANCHES), (1, GOING_ON))


@pytest.mark.slow
@pytest.mark.parametrize(
    "runs",
    [
        ((1, GOING_ON), (2, BY_BRANCHES)),
        ((2, GOING_ON), (4, BY_BRANCHES)),
        ((4, BY_BRANCHES), (2, BY_BRANCHES), (1, GOING_ON)),
        ((1, GOING_ON), (4, replace(GOING_ON, branch_ranks=4)), (2, GOING_ON)),
    ],
    ids=["1 then 2", "2 then 4", "4 then 2 then 1", "1 then 4 then 2"],
)
def test_any_number_of_processes_goes_on_with_what_another_has_kept(
    tmp_path: Path, runs: tuple[tuple[int, Case], ...]
) -> None:
    _goes_on(tmp_path, *runs)
