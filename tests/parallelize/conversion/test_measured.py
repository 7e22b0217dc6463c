"""Every network of a conversion is scored, written, compared with its graph and timed, and scratch files go again."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from torch import fx

from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.baselines.networks import SERIAL, Made, Networks, Variants, each_network, fused_networks
from parallelize.conversion import measured as measured_networks
from parallelize.conversion.measured import Measured, measure, write_serial
from parallelize.measuring import onnx_latency
from parallelize.measuring.timing import TURNS
from parallelize.measuring.written import TOLERANCE
from parallelize.models.network import NetworkFacts
from passes.errors import CheckError
from tests.parallelize.conversion.jobs import random_job
from tests.parallelize.small_models import pairs


def fused() -> Networks:
    job = random_job()
    return fused_networks(job.prepared.program, job.graph.serial_plan, job.prepared.data.held_out)


def measured_in(
    folder: Path, networks: Networks, told: list[str] | None = None
) -> tuple[Variants[NetworkFacts], Measured]:
    def report(what: str, _share: float | None) -> None:
        (told if told is not None else []).append(what)

    files = write_serial(random_job().prepared.program, folder, report)
    assert {path.name for path in (folder / "scratch").iterdir()} == {"serial.onnx", "serial.onnx.data"}
    return measure(random_job(), networks, files, report)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measured, list[str]]:
    folder, told = tmp_path_factory.mktemp("out"), list[str]()
    return folder, measured_in(folder, fused(), told)[1], told


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
        "judging 'serial'",
        "writing and checking the ONNX of 'serial'",
        "judging 'fused'",
        "writing and checking the ONNX of 'fused'",
        "timing",
    ]


def test_a_file_that_is_not_its_graph_ends_the_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCE, "fp32", -1.0)
    with pytest.raises(CheckError, match=r"^The ONNX of 'serial' differs from its graph by "):
        measured_in(tmp_path, fused())


def test_each_network_is_let_go_before_the_next_one_is_made_but_for_the_product(tmp_path: Path) -> None:
    job, graphs = random_job(), dict[str, weakref.ref[fx.GraphModule]]()
    data = job.prepared.data

    def watched() -> Networks:
        networks = each_network(job.prepared.program, pairs("affine", 2), data.fit, data.held_out, None)
        while True:
            try:
                network = next(networks)
            except StopIteration as end:
                made: Made = end.value
                return made
            graphs[network.name] = weakref.ref(network.module)
            yield network
            del network
            gc.collect()
            there.append({name for name, graph in graphs.items() if graph() is not None} - {SERIAL})

    there: list[set[str]] = []
    variants, _ = measured_in(tmp_path, watched())
    product = {"rewrite, refitted"}
    unfused = {"rewrite, unfused"}
    assert there == [set(), {"rewrite, as is"}, unfused, product | unfused, product, product]
    assert variants.product.name == "rewrite, refitted"
    assert [facts.name for facts in variants.items] == list(graphs)


def test_networks_too_large_to_be_open_at_once_are_loaded_for_each_turn_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Session(OnnxRuntime):
        def __init__(self, model: Path, threads: int) -> None:
            opened.append(model.name)
            assert sum(session() is not None for session in sessions) == 0
            super().__init__(model, threads)
            sessions.append(weakref.ref(self))

    sessions: list[weakref.ref[Session]] = []
    monkeypatch.setattr(measured_networks, "OnnxRuntime", Session)
    monkeypatch.setattr(onnx_latency, "OnnxRuntime", Session)
    monkeypatch.setattr(onnx_latency, "AT_ONCE", 0)
    job = replace(random_job(), options=replace(random_job().options, rounds=3))
    files = write_serial(job.prepared.program, tmp_path, lambda _what, _share: None)
    _, found = measure(job, fused(), files, lambda _what, _share: None)
    assert opened == ["serial.onnx", *["serial.onnx", "1.onnx"] * (1 + TURNS)]
    assert found.reloaded
    assert {latency.rounds for latency in found.latencies.values()} == {3}
