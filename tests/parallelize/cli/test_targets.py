"""`parallelize profile-gpu`: refused before the measurement where the place or the GPU is in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parallelize.predicting import profile
from parallelize.predicting.target import Target, load_target
from tests.parallelize.cli.commands import run
from tests.parallelize.predicting.targets import KNOWN

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")


@without_gpu
def test_without_a_gpu_it_ends_in_3_and_writes_nothing(tmp_path: Path) -> None:
    result = run("profile-gpu", "-o", str(tmp_path / "my.json"))
    assert result.exit_code == 3
    assert "error: There is no CUDA GPU to profile." in result.stderr
    assert "hint:  Run this where the GPU is" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_only_when_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(device: str | None, **_more: object) -> Target:
        assert device == "cuda:0"
        return KNOWN

    monkeypatch.setattr(profile, "profile_gpu", measured)
    path = tmp_path / "my.json"
    path.write_text("mine")
    refused = run("profile-gpu", "-o", str(path), "--device", "cuda:0")
    assert (refused.exit_code, path.read_text()) == (2, "mine")
    assert "my.json exists." in refused.stderr
    done = run("profile-gpu", "-o", str(path), "--device", "cuda:0", "--force")
    assert done.exit_code == 0
    assert "NVIDIA Known: 100 SMs, bf16, fp32" in done.stdout
    assert load_target(str(path)) == KNOWN


def test_a_place_that_cannot_be_written_to_is_refused_before_the_measurement(tmp_path: Path) -> None:
    result = run("profile-gpu", "-o", str(tmp_path / "missing" / "my.json"))
    assert result.exit_code == 3
    assert "there is no folder" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (KNOWN.to_json()[:50], "target.json is no JSON"),
        (KNOWN.to_json().replace("target/1", "target/9"), "has the format 'parallelize-target/9'"),
        (KNOWN.to_json().replace('"sms": 100', '"sms": -1'), "target.json.sms is -1"),
    ],
    ids=["damaged", "another version", "a number that cannot be"],
)
@pytest.mark.parametrize("command", ["plan", "convert"])
def test_a_target_file_that_is_no_target_ends_in_a_sentence_before_the_model_is_read(
    command: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "target.json").write_text(text)
    result = run(command, "no such model", "--target", str(tmp_path / "target.json"), "-o", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "hint:  Measure the GPU again" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["target.json"]
