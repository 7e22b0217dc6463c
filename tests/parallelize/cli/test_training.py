"""`parallelize train` on a data set of its own: a checkpoint, or one sentence that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paraformer.checkpoint import load
from paraformer.config import TokenConfig
from paraformer.errors import CheckpointError, DatasetError
from parallelize.cli.training import blocks_in_all, train_model
from passes.errors import ParallelizeError
from tests.paraformer.idx_files import stripes, write_split

SIZES = {"image_size": 8, "patch_size": 4, "depth": 2, "width": 16, "heads": 2, "hidden": 32, "classes": 2}
SCHEDULE = {"epochs": 2, "batch_size": 16, "seed": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("idx")
    write_split(root, "train", stripes(64, 8, 0))
    write_split(root, "t10k", stripes(20, 8, 1))
    return root


def _train(
    output: Path,
    data: Path,
    sizes: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
    limit: int | None = None,
) -> tuple[float, list[tuple[str, float | None]]]:
    """Top-1, and what was reported on the way."""
    said: list[tuple[str, float | None]] = []
    top1 = train_model(
        output, data, SIZES | (sizes or {}), SCHEDULE | (schedule or {}), limit, lambda *what: said.append(what)
    )
    return top1, said


@pytest.mark.parametrize("mode", ["serial", "para-former"])
def test_training_writes_a_checkpoint_of_the_sizes_that_were_asked_for(tmp_path: Path, data: Path, mode: str) -> None:
    output = tmp_path / "runs" / "model.pt"
    top1, _ = _train(output, data, {"mode": mode, "branches": 2})
    checkpoint = load(output)
    assert checkpoint.config.to_dict().items() >= (SIZES | {"mode": mode, "branches": 2}).items()
    assert checkpoint.training["epochs"][-1]["top1"] == top1
    assert checkpoint.training["options"].items() >= SCHEDULE.items()
    assert checkpoint.build()(torch.zeros(3, 1, 8, 8)).shape == (3, 2)
    assert [path.name for path in output.parent.iterdir()] == ["model.pt"]


def test_every_step_is_reported_with_its_epoch_its_share_and_the_accuracy_so_far(tmp_path: Path, data: Path) -> None:
    _, said = _train(tmp_path / "model.pt", data)
    accuracy = load(tmp_path / "model.pt").training["epochs"][0]["top1"]
    assert [share for _, share in said] == [step / 8 for step in range(1, 9)]
    assert [what for what, _ in said[:4]] == ["epoch 1 of 2"] * 4
    assert [what for what, _ in said[4:]] == [f"epoch 2 of 2, top-1 {accuracy:.2%}"] * 4


def test_a_limit_uses_the_first_images_only(tmp_path: Path, data: Path) -> None:
    _, said = _train(tmp_path / "first.pt", data, limit=33)
    assert len(said) == 2 * 2
    few = tmp_path / "few"
    for prefix, images in (("train", stripes(64, 8, 0)), ("t10k", stripes(20, 8, 1))):
        write_split(few, prefix, images.head(33))
    _train(tmp_path / "few.pt", few)
    states = [load(tmp_path / name).state_dict for name in ("first.pt", "few.pt")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path, data: Path) -> None:
    def stop(what: str, _share: float | None) -> None:
        if what.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_model(tmp_path / "model.pt", data, SIZES, SCHEDULE, None, stop)
    _, said = _train(tmp_path / "model.pt", data)
    assert [what[:12] for what, _ in said] == ["epoch 2 of 2"] * 4
    _train(tmp_path / "whole.pt", data)
    states = [load(tmp_path / name).state_dict for name in ("model.pt", "whole.pt")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_going_on_with_other_options_is_refused(tmp_path: Path, data: Path) -> None:
    def stop(what: str, _share: float | None) -> None:
        if what.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_model(tmp_path / "model.pt", data, SIZES, SCHEDULE, None, stop)
    with pytest.raises(CheckpointError, match="belongs to a run with other options"):
        _train(tmp_path / "model.pt", data, schedule={"seed": 1})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"patch_size": 3}, "patch_size 3 does not divide image_size 8"),
        ({"heads": 3}, "heads 3 does not divide width 16"),
        ({"branches": 5}, "branches 5 does not divide depth 2"),
        ({"mode": "wide"}, "mode must be 'serial' or 'para-former', not 'wide'"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused_and_nothing_is_written(
    tmp_path: Path, data: Path, sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParallelizeError, match=f"^The model cannot be trained: {message}\\.$") as caught:
        _train(tmp_path / "model.pt", data, sizes)
    assert caught.value.hint == "See `parallelize train --help`."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("schedule", "limit"), [({"batch_size": 65}, None), ({"epochs": 0}, None), ({}, 15)])
def test_too_few_images_for_one_batch_are_refused(
    tmp_path: Path, data: Path, schedule: dict[str, Any], limit: int | None
) -> None:
    with pytest.raises(ParallelizeError, match="at least one epoch of at least one whole batch"):
        _train(tmp_path / "model.pt", data, schedule=schedule, limit=limit)


def test_images_of_another_size_than_the_model_reads_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises((ParallelizeError, DatasetError)):
        _train(tmp_path / "model.pt", data, {"image_size": 12})


def test_an_absent_data_set_is_refused_with_what_there_may_be(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="There is no data") as caught:
        _train(tmp_path / "model.pt", tmp_path / "nowhere")
    assert "IDX files" in caught.value.hint


def test_texts_train_a_token_model_which_says_nothing_of_patches(tmp_path: Path) -> None:
    lines = [f"{'good fine' if number % 2 else 'bad poor'} film {number},{number % 2}" for number in range(80)]
    texts = tmp_path / "texts.csv"
    texts.write_text("\n".join(["text,label", *lines]))
    sizes = {"depth": 2, "width": 16, "heads": 2, "hidden": 32, "mode": "para-former", "branches": 2, "pooling": "cls"}
    output = tmp_path / "model.pt"
    train_model(output, texts, sizes | {"patch_size": None}, SCHEDULE | {"epochs": 4}, None, lambda *_: None)
    config = load(output).config
    assert isinstance(config, TokenConfig)
    assert (config.classes, config.branch_count, config.pooling) == (2, 2, "cls")
    with pytest.raises(ParallelizeError, match=r"texts\.csv holds texts, which have no patches\.$"):
        train_model(output, texts, sizes | {"patch_size": 4}, SCHEDULE, None, lambda *_: None)


@pytest.mark.parametrize(
    ("depth", "branches", "branch_depth", "blocks"),
    [(None, 3, None, 12), (6, 3, None, 6), (None, 3, 2, 6), (6, 3, 2, 6)],
)
def test_blocks_are_told_in_all_or_by_the_branch(
    depth: int | None, branches: int, branch_depth: int | None, blocks: int
) -> None:
    assert blocks_in_all(depth, branches, branch_depth) == blocks


def test_blocks_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ParallelizeError, match=r"^3 branches of 2 blocks are 6 blocks, not 12\.$"):
        blocks_in_all(12, 3, 2)
