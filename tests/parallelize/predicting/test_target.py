"""A target is read strictly, and what is wrong with a file is said in a sentence with a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parallelize.predicting.target import FORMAT, load_target, read_target, shipped
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.predicting.targets import KNOWN


def _changed(**changes: Any) -> str:
    content = {**json.loads(KNOWN.to_json()), **changes}
    return json.dumps({key: value for key, value in content.items() if value is not None})


def test_a_target_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    KNOWN.write(tmp_path / "my.json")
    assert load_target(str(tmp_path / "my.json")) == KNOWN
    assert json.loads((tmp_path / "my.json").read_text())["format"] == FORMAT


@pytest.mark.parametrize("name", list(shipped()))
def test_every_shipped_target_can_be_read_by_its_name_and_says_how_good_it_is(name: str) -> None:
    target = load_target(name)
    assert target.precisions
    assert 0 < target.error < 0.15
    assert target.error_of


def test_h200_is_shipped() -> None:
    assert (load_target("h200").gpu, load_target("h200").sms) == ("NVIDIA H200", 132)


def test_an_unknown_name_lists_those_that_there_are() -> None:
    with pytest.raises(ParallelizeError, match=r"There is no target 'h300'\.") as caught:
        load_target("h300")
    assert "h200" in caught.value.hint
    assert "profile-gpu" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (KNOWN.to_json()[:100], "my.json is no JSON"),
        ("[1, 2]", "has the format None"),
        (_changed(format="parallelize-target/2"), "has the format 'parallelize-target/2', not 'parallelize-target/1'"),
        (_changed(sms=None), "my.json has no 'sms'"),
        (_changed(sms="many"), 'my.json.sms is "many", not a number'),
        (_changed(sms=0), "my.json.sms is 0, not a number above zero"),
        (_changed(gb_per_s=float("nan")), "my.json.gb_per_s is nan"),
        (_changed(rates={}), "my.json has no rates"),
        (_changed(rates={"bf16": {"product": {"step_ns": 1.0}}}), "my.json.rates.bf16.product has no 'gflops'"),
        (_changed(fixed_us={"product": 1.0}), r"my.json has no fixed_us\.convolution"),
        (_changed(fixed_us={**KNOWN.fixed_us, "norm": -1.0}), r"my.json.fixed_us.norm is -1.0, not a number above"),
    ],
)
def test_a_file_that_is_no_target_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "my.json"
    path.write_text(text)
    with pytest.raises(ParallelizeError, match=message) as caught:
        load_target(str(path))
    assert caught.value.hint


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "my.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParallelizeError, match="cannot be read"):
        load_target(str(tmp_path / "my.json"))


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLackError, match="cannot be written"):
        KNOWN.write(tmp_path / "missing" / "my.json")


def test_keys_of_a_later_version_are_left_out() -> None:
    assert read_target(_changed(colour="green"), "my.json") == KNOWN


def test_a_precision_without_numbers_is_refused() -> None:
    KNOWN.require("fp32")
    with pytest.raises(ParallelizeError, match="The target NVIDIA Known has no numbers for fp16") as caught:
        KNOWN.require("fp16")
    assert caught.value.hint == "It has them for bf16 or fp32."
