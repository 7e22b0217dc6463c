"""What ranks do together, in processes that are ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.parallelize.rank_processes import ranks
from tests.passes.models import EXACT, relative_error
from tests.passes.spread.trained import CASES, find_gradients, gradients


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_gradients_of_all_ranks_are_those_of_one_process(size: int, tmp_path: Path) -> None:
    ends = ranks(size, tmp_path, find_gradients, tmp_path)
    assert [end.code for end in ends] == [0] * size, ends
    found = [torch.load(tmp_path / f"gradients{rank}.pt") for rank in range(size)]
    for case in found[0]:
        expected = gradients(CASES[case]())
        assert set().union(*(each[case] for each in found)) == set(expected), case
        assert all(set(each[case]) < set(expected) for each in found) == (not case.startswith("weights")), case
        for name, value in ((name, value) for each in found for name, value in each[case].items()):
            assert relative_error(value, expected[name]) < EXACT, (case, name)
