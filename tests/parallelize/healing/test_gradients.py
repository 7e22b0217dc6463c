"""Several processes that share a healing end where one does, and go on from each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parallelize.healing import heal as healing
from tests.parallelize.healing.sharing import Case, Stop, apart, heal_all
from tests.parallelize.rank_processes import ranks

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = 1e-10  # in float64

QUICK = {"samples": Case({}), "branches": Case({"train": "lora"}, branch_ranks=2)}
SLOW = {
    "fixed batches": Case({}, fixed=4),
    "without logits": Case({"hidden_weight": 0.0}, logits=False),
    "norms and out-projections": Case({"train": "outer"}, branch_ranks=2),
    "all weights": Case({"clip": 0.01}, branch_ranks=2),
    "fewer samples than ranks": Case({"batch_size": 4}, fixed=3),
}


def _same_as_alone(size: int, folder: Path, cases: dict[str, Case]) -> None:
    ends = ranks(size, folder, heal_all, cases, folder)
    assert [(end.code, end.said) for end in ends] == [(0, "")] * size
    for name, case in cases.items():
        alone = case.run()
        for rank in range(size):
            assert apart(torch.load(folder / f"{name}.rank{rank}", weights_only=False), alone) < CLOSE, (name, rank)


def test_two_processes_heal_as_one_does(tmp_path: Path) -> None:
    _same_as_alone(2, tmp_path, QUICK)


@pytest.mark.slow
def test_two_processes_heal_as_one_does_whatever_is_trained(tmp_path: Path) -> None:
    _same_as_alone(2, tmp_path, SLOW)


@pytest.mark.slow
def test_four_processes_share_samples_and_branches(tmp_path: Path) -> None:
    _same_as_alone(4, tmp_path, {name: replace(case, branch_ranks=2) for name, case in {**QUICK, **SLOW}.items()})


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 1), (1, 2), (4, 2), (2, 4)], ids=lambda sizes: "{} then {}".format(*sizes))
def test_any_number_of_processes_goes_on_with_what_another_has_kept(
    tmp_path: Path, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healing, "KEEP_EVERY", 0.0)
    whole, file = Case({}).run(), tmp_path / "run.resume"
    first, second = (Case({}, branch_ranks=min(size, 2)) for size in sizes)
    if sizes[0] == 1:
        with pytest.raises(Stop):
            first.run(state_file=file, stops_at=4)
    else:
        assert {end.code for end in ranks(sizes[0], tmp_path, heal_all, {"run": first}, tmp_path, 4)} == {0}
    assert torch.load(file)["step"] in (2, 4)
    if sizes[1] == 1:
        found = second.run(state_file=file)
    else:
        assert {end.code for end in ranks(sizes[1], tmp_path, heal_all, {"run": second}, tmp_path)} == {0}
        found = torch.load(tmp_path / "run.rank0", weights_only=False)
    assert apart(found, whole) < CLOSE
