"""What a comparison tells: tables by the kind of an output, plain values without infinities, sentences."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from math import inf, nan

from rich.console import Console

from parallelize.measuring.by_level import Level, LevelErrors
from parallelize.measuring.compare import CompareResult, NetworkErrors
from parallelize.measuring.compare_report import as_dict, notes, tables
from parallelize.measuring.options import CompareOptions
from parallelize.measuring.output_errors import OutputErrors, Spread
from parallelize.models.acceptance import RANDOM_WARNING

SPREAD = Spread(0.5, 0.25, 0.125, 0.4)
LOGITS = OutputErrors("logits", 640, 0, 1.0, 3, SPREAD, SPREAD, 0.9999999, 61.25, 0.5, inf)
CLASSES = OutputErrors("classes", 64, 0, 0.03125, 2)
LEVELS = LevelErrors(
    "b", (Level("blocks", 0, "entry", 0.0), Level("blocks", 2, "after term 1", 0.125)), 1e-3, "One state was left out."
)
RESULT = CompareResult(
    ("a [1]", "torch"), (NetworkErrors("b", "onnxruntime", (LOGITS, CLASSES), LEVELS),), 64, True, CompareOptions(0.1)
)


def shown(result: CompareResult) -> str:
    console = Console(file=io.StringIO(), width=160)
    for table in tables(result):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_values_hold_every_number_and_what_is_none_is_null() -> None:
    content = as_dict(RESULT)
    json.dumps(content, allow_nan=False)
    assert (content["schema"], content["passed"], content["samples"]) == ("parallelize-compare/1", False, 64)
    assert content["warnings"] == [RANDOM_WARNING]
    assert content["reference"] == {"name": "a [1]", "runner": "torch"}
    logits, classes = content["networks"][0]["outputs"]
    assert (logits["absolute"]["quantile"], logits["needed_atol"], logits["needed_rtol"]) == (0.4, 0.5, None)
    assert (classes["absolute"], classes["failing"]) == (None, 2)
    assert content["networks"][0]["levels"]["first"]["terms"] == 2
    assert len(content["failures"]) == 2


def test_numbers_and_codes_have_tables_of_their_own_and_levels_one_more() -> None:
    assert len(list(tables(RESULT))) == 3
    text = shown(RESULT)
    assert "b (onnxruntime) against a [1] (torch), 64 samples" in text
    for words in ("5.00e-01", "0.9999999", "61.2", "atol 0.5", "3.1250%", "blocks: after term 1", "<- parts here"):
        assert words in text
    assert "none" in text  # no rtol would pass
    assert "rel.: where the reference is not 0. 0.99: quantile. passes with: the smallest atol at rtol 0" in " ".join(
        text.split()
    )
    assert "One state was left out." in text


def test_an_output_without_a_finite_number_is_in_the_table_of_numbers() -> None:
    broken = OutputErrors("logits", 640, 640, 1.0, 640)
    result = replace(RESULT, networks=(NetworkErrors("b", "torch", (broken,)),))
    text = shown(result)
    assert "logits (640 NaN or infinite)" in text
    assert text.count(" - ") >= 8
    content = as_dict(replace(result, networks=(NetworkErrors("b", "torch", (replace(broken, cosine=nan),)),)))
    assert content["networks"][0]["outputs"][0]["cosine"] is None


def test_sentences_say_where_networks_part_or_that_they_do_not() -> None:
    assert notes(RESULT) == [
        RANDOM_WARNING,
        "b parts from the reference at blocks: after term 1: 1.25e-01 is over 0.001.",
    ]
    near = replace(LEVELS, threshold=0.5)
    result = replace(RESULT, random=False, networks=(NetworkErrors("b", "torch", (), near),))
    assert notes(result) == ["b stays within 0.5 of the reference in every state."]
    assert notes(replace(RESULT, random=False, networks=(NetworkErrors("b", "torch", ()),))) == []
