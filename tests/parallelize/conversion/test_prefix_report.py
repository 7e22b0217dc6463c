"""What is told of prefixes, made of a result alone: sentences, a section of the page, and a curve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from parallelize.conversion.prefix_report import draw_curve, prefix_facts, prefix_notes, prefix_section
from parallelize.conversion.prefix_result import PrefixesWritten, PrefixNetwork
from parallelize.conversion.result import Result
from parallelize.machine.latency import Latency
from tests.parallelize.conversion.small_result import BACKEND, ENGINE, network, result

FOUND = PrefixesWritten(
    level="add_7",
    branches=2,
    scheduled=True,
    networks=(
        PrefixNetwork("prefix 1 of 2", 1, ("prefix_1.pt2", "prefix_1.onnx"), ("logits",)),
        PrefixNetwork("prefix 2 of 2", 2, (), ("logits",)),
    ),
    every=PrefixNetwork("every prefix", 2, ("prefixes.pt2", "prefixes.onnx"), ("logits_prefix_1", "logits_prefix_2")),
)
NAMES = ("prefix 1 of 2", "prefix 2 of 2", "every prefix")


def _result(found: PrefixesWritten = FOUND, **changes: object) -> Result:
    made = result(prefixes=found, **changes)
    rows = [network(name, 0.5 / number, blocks=number) for number, name in enumerate(NAMES, 1)]
    return replace(made, networks=(*made.networks, *rows))


def test_facts_name_the_level_the_prefixes_and_what_one_run_takes() -> None:
    level, every = prefix_facts(_result())
    assert level == "The last level, which ends in add_7, has 2 branches; measured were its prefixes of 1 and 2."
    assert every == (
        "prefixes.onnx answers after each of them in one run, in 0.75 ms on ONNX Runtime; the network alone takes 0.5"
        " ms. Its outputs are logits_prefix_1, logits_prefix_2."
    )
    assert len(list(prefix_facts(_result(replace(FOUND, every=None))))) == 1
    assert list(prefix_facts(result())) == []


def test_latencies_are_those_of_engines_where_all_prefixes_have_run_as_some() -> None:
    times = {name: Latency(0.125, 0.25, 0.5, 200) for name in ("serial", "rewrite", *NAMES)}
    engine = replace(ENGINE, latency_ms=times, not_run=None)
    told = list(prefix_facts(_result(backend=replace(BACKEND, engine=engine))))
    assert "in 0.125 ms on tensorrt-rtx 1.7; the network alone takes 0.125 ms" in told[1]
    part = replace(engine, latency_ms={"serial": times["serial"], "rewrite": times["rewrite"]})
    assert "on ONNX Runtime" in list(prefix_facts(_result(backend=replace(BACKEND, engine=part))))[1]


def test_prefixes_of_a_schedule_are_said_to_be_untrained() -> None:
    assert len(list(prefix_notes(_result()))) == 1
    assert list(prefix_notes(_result(replace(FOUND, scheduled=False)))) == list(prefix_notes(result())) == []


def test_the_section_has_the_curve_and_every_file() -> None:
    section = prefix_section(_result(), "<svg>curve</svg>")
    assert "<svg>curve</svg>" in section
    assert "<td>prefix_1.pt2, prefix_1.onnx</td><td>logits</td>" in section
    assert "<td>prefix 2 of 2</td><td>not written</td>" in section
    assert prefix_section(result(), "") == ""


def test_the_curve_has_each_prefix_by_its_number(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_curve(_result(), tmp_path / "curve.svg")
    text = (tmp_path / "curve.svg").read_text()
    words = (
        "prefixes",
        "serial",
        "rewrite, as is",
        "every prefix",
        "ms, batch 1, ONNX Runtime",
        "KL nats, against serial",
    )
    assert all(f"<!-- {word} -->" in text for word in (*words, "1", "2"))
