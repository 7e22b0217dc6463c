"""Every network of a conversion is scored, written, compared with its graph and timed, and scratch files go again."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallelize.baselines.networks import Variants, fused_variants
from parallelize.conversion.measured import Measured, measure, write_serial
from parallelize.measuring.written import TOLERANCE
from passes.errors import CheckError
from tests.parallelize.conversion.jobs import random_job


@pytest.fixture(scope="module")
def variants() -> Variants:
    job = random_job()
    return fused_variants(job.prepared.program, job.graph.serial_plan, job.prepared.data.held_out)


@pytest.fixture(scope="module")
def made(variants: Variants, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measured, list[str]]:
    folder, told = tmp_path_factory.mktemp("out"), list[str]()
    job = random_job()
    write_serial(job.prepared.program, folder, lambda what, _: told.append(what))
    assert [path.name for path in (folder / "scratch").iterdir()] == ["serial.onnx"]
    return folder, measure(job, variants, folder, lambda what, _: told.append(what)), told


def test_all_networks_have_all_numbers_and_the_serial_one_is_no_error(made: tuple[Path, Measured, list[str]]) -> None:
    _, measured, _ = made
    for numbers in (measured.scores, measured.latencies, measured.comparisons):
        assert set(numbers) == {"serial", "fused"}
    assert measured.scores["serial"].error("kl") == 0
    assert measured.scores["fused"].error("kl") < 1e-9
    assert all(comparison.error < 1e-4 for comparison in measured.comparisons.values())
    assert all(latency.rounds == 1 for latency in measured.latencies.values())


def test_the_product_stays_and_scratch_files_go(made: tuple[Path, Measured, list[str]]) -> None:
    folder, _, told = made
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    assert list(dict.fromkeys(told)) == [
        "writing the serial network as ONNX",
        "judging",
        "writing and checking ONNX",
        "timing",
    ]


def test_a_file_that_is_not_its_graph_ends_the_conversion(
    variants: Variants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_serial(random_job().prepared.program, tmp_path, lambda what, share: None)
    monkeypatch.setitem(TOLERANCE, "fp32", -1.0)
    with pytest.raises(CheckError, match=r"^The ONNX of 'serial' differs from its graph by "):
        measure(random_job(), variants, tmp_path, lambda what, share: None)
