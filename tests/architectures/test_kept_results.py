"""docs/architectures.md says what was measured, of 100 architectures and more, and nothing is left out in silence."""

from __future__ import annotations

import pytest
import torch

from benchmarks.architectures import PAGE, kept, part_of
from benchmarks.zoo import FAMILIES, ZOO
from benchmarks.zoo.measured import FORMS, structure
from benchmarks.zoo.page import page
from parallelize.models.clean import clean
from passes.stacks.find import find_stacks

RESULTS = kept()
SINGLE = {"mamba", "mamba-2", "falcon-mamba"}  # compute their scan in float32 whatever the model's dtype
CAPTURED = {name: result for name, result in RESULTS.items() if not ZOO[name].uncaptured}


def test_the_page_is_written_from_the_results_that_are_kept() -> None:
    assert PAGE.read_text() == page(RESULTS)


def test_at_least_a_hundred_architectures_beside_para_formers_were_measured() -> None:
    para_formers = {entry.name for entry in FAMILIES["Para-Formers"]}
    assert len(CAPTURED.keys() - para_formers) >= 100


@pytest.mark.parametrize("name", CAPTURED)
def test_no_check_failed_and_every_add_and_branch_is_accounted_for(name: str) -> None:
    result = CAPTURED[name]
    assert result["failed"] == {}
    assert result["as_expected"]
    assert result["serial"]
    assert result["silent"] == []
    assert result["eager"] < 1e-12
    for form in FORMS:
        assert result[form]["finite"]
        assert result[form]["error"] < (1e-6 if name in SINGLE else 1e-10)
        assert len(result[form]["left"]) <= result[form]["present"]


def test_what_is_not_captured_has_a_reason() -> None:
    assert all(RESULTS[name]["refused_capture"] for name in RESULTS.keys() - CAPTURED.keys())


@pytest.mark.parametrize("count", [1, 3, 7])
def test_shards_are_all_names_once(count: int) -> None:
    names = list(ZOO)
    parts = [part_of(names, f"{number + 1}/{count}") for number in range(count)]
    assert sorted(name for part in parts for name in part) == sorted(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", CAPTURED)
def test_what_is_found_today_is_what_the_page_says(name: str) -> None:
    entry = ZOO[name]
    program, _ = clean(entry.capture(torch.float64))
    found = structure(entry, program.module, find_stacks(program.module))
    assert {key: RESULTS[name][key] for key in found} == found
