"""`parallelize train` on a data set of its own: a checkpoint, or one sentence that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paraformer.checkpoint import load
from paraformer.config import TokenConfig
from paraformer.errors import CheckpointError, DatasetError, ParaFormerError, TrainingError
from paraformer.training.options import TrainingOptions
from paraformer.training.records import EpochRecord
from parallelize.cli.training import blocks_in_all, train_model
from parallelize.cli.training_options import Beginning, Samples, Sizes
from tests.paraformer.idx_files import stripes, write_split

SIZES = {"patch_size": 4, "depth": 2, "width": 16, "heads": 2, "hidden": 32}
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
    report: Any = None,
    **beginning: Any,
) -> tuple[EpochRecord, list[tuple[str, float | None]]]:
    """The scores of what was written, and what was reported on the way."""
    said: list[tuple[str, float | None]] = []
    chosen = train_model(
        output,
        Samples(data=data, limit=limit),
        Sizes(**(SIZES if sizes is None else sizes)),
        Beginning(**beginning),
        TrainingOptions(**(SCHEDULE | (schedule or {}))),
        device="cpu",
        report=report or (lambda *what: said.append(what)),
    )
    return chosen, said


@pytest.mark.parametrize("branches", [None, 2])
def test_training_writes_a_checkpoint_of_the_sizes_that_were_asked_for(
    tmp_path: Path, data: Path, branches: int | None
) -> None:
    output = tmp_path / "runs" / "model.pt"
    chosen, _ = _train(output, data, SIZES | {"branches": branches})
    checkpoint = load(output)
    assert checkpoint.config.to_dict().items() >= (SIZES | {"classes": 2, "branches": branches or 1}).items()
    assert checkpoint.config.mode == ("para-former" if branches else "serial")
    assert checkpoint.training["epochs"][-1]["top1"] == chosen.top1
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
        _train(tmp_path / "model.pt", data, report=stop)
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
        _train(tmp_path / "model.pt", data, report=stop)
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
    with pytest.raises(TrainingError, match=f"^The model cannot be trained: {message}\\.$") as caught:
        _train(tmp_path / "model.pt", data, SIZES | sizes)
    assert caught.value.hint == "See `parallelize train --help`."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("schedule", "limit"), [({"batch_size": 65}, None), ({}, 15)])
def test_too_few_images_for_one_batch_are_refused(
    tmp_path: Path, data: Path, schedule: dict[str, Any], limit: int | None
) -> None:
    with pytest.raises(TrainingError, match="training samples do not fill a batch of"):
        _train(tmp_path / "model.pt", data, schedule=schedule, limit=limit)


def test_an_absent_data_set_is_refused_with_what_there_may_be(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="There is no data") as caught:
        _train(tmp_path / "model.pt", tmp_path / "nowhere")
    assert "IDX files" in caught.value.hint


def test_texts_train_a_token_model_which_says_nothing_of_patches(tmp_path: Path) -> None:
    texts = _texts(tmp_path)
    sizes = {"depth": 2, "width": 16, "heads": 2, "hidden": 32, "branches": 2, "pooling": "cls"}
    output = tmp_path / "model.pt"
    _train(output, texts, sizes, {"epochs": 4})
    config = load(output).config
    assert isinstance(config, TokenConfig)
    assert (config.classes, config.branch_count, config.pooling) == (2, 2, "cls")
    with pytest.raises(TrainingError, match=r"^texts holds texts, and a model of texts has no patch_size\.$") as caught:
        _train(output, texts, sizes | {"patch_size": 4})
    assert caught.value.hint == "Leave --patch-size out."


def test_texts_train_a_model_of_the_next_token_too(tmp_path: Path) -> None:
    sizes = {"depth": 2, "width": 16, "heads": 2, "hidden": 32, "branches": 2, "task": "next-token"}
    chosen, _ = _train(tmp_path / "model.pt", _texts(tmp_path), sizes, {"epochs": 12, "objective": "progressive"})
    config = load(tmp_path / "model.pt").config
    assert isinstance(config, TokenConfig)
    assert config.causal
    assert chosen.top1 > 0.3  # of four words the second and the third follow from the first


def _texts(folder: Path) -> Path:
    lines = [f"{'good fine' if number % 2 else 'bad poor'} film {number},{number % 2}" for number in range(80)]
    texts = folder / "texts.csv"
    texts.write_text("\n".join(["text,label", *lines]))
    return texts


@pytest.mark.parametrize(
    ("depth", "branches", "branch_depth", "blocks"),
    [(None, 3, None, 12), (6, 3, None, 6), (None, 3, 2, 6), (6, 3, 2, 6)],
)
def test_blocks_are_told_in_all_or_by_the_branch(
    depth: int | None, branches: int, branch_depth: int | None, blocks: int
) -> None:
    assert blocks_in_all(depth, branches, branch_depth) == blocks


def test_blocks_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"^3 branches of 2 blocks are 6 blocks, not 12\.$"):
        blocks_in_all(12, 3, 2)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A serial checkpoint."""
    path = tmp_path_factory.mktemp("trained") / "serial.pt"
    _train(path, data, schedule={"epochs": 1})
    return path


def test_a_serial_checkpoint_becomes_a_para_former_that_grows(tmp_path: Path, data: Path, trained: Path) -> None:
    _train(tmp_path / "two.pt", data, {"branches": 2}, {"epochs": 1}, init=trained)
    two = load(tmp_path / "two.pt")
    assert (two.config.branch_count, two.config.depth) == (2, 2)
    chosen, said = _train(
        tmp_path / "three.pt", data, {"branches": 3}, {"objective": "progressive"}, grow=tmp_path / "two.pt"
    )
    three = load(tmp_path / "three.pt")
    assert (three.config.branch_count, three.config.depth) == (3, 3)
    assert torch.equal(three.state_dict["blocks.1.up.weight"], two.state_dict["blocks.1.up.weight"])
    assert torch.equal(three.state_dict["patch.weight"], two.state_dict["patch.weight"])
    assert three.state_dict["blocks.2.down.weight"].abs().max() > 0
    assert three.training["start"] == "two.pt, grown from 2 to 3 branches"
    assert len(chosen.prefixes) == 3
    assert "top-1" in said[-1][0]
    assert said[-1][0].count("%") == 4


def test_an_exported_network_becomes_a_para_former(tmp_path: Path, data: Path, trained: Path) -> None:
    model = load(trained).build()
    free = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (torch.rand(4, 1, 8, 8) * 255,), dynamic_shapes=free)
    torch.export.save(program, tmp_path / "serial.pt2")
    _train(tmp_path / "two.pt", data, {"branches": 2}, {"epochs": 1}, init=tmp_path / "serial.pt2")
    found = load(tmp_path / "two.pt")
    assert found.config.branch_count == 2
    assert found.training["start"] == "serial.pt2, made a Para-Former of 2 branches"


def test_a_teacher_is_recorded(tmp_path: Path, data: Path, trained: Path) -> None:
    _train(tmp_path / "taught.pt", data, SIZES | {"branches": 2}, {"epochs": 1}, teacher=trained)
    assert load(tmp_path / "taught.pt").training["teacher"] == "serial.pt"


@pytest.mark.parametrize(
    ("sizes", "schedule", "beginning", "message"),
    [
        ({"width": 32}, {}, ("init",), r"serial\.pt has width 16, and 32 is asked for\.$"),
        ({"task": "classify"}, {}, ("init",), r"serial\.pt has no task, and classify is asked for\.$"),
        ({"branches": 3}, {}, ("init",), r"^2 blocks are not 3 branches of equal depth\.$"),
        ({}, {}, ("init", "grow"), r"^A training begins with one checkpoint, and --init and --grow name two\.$"),
        ({}, {}, ("grow",), r"^How many branches .*serial\.pt is grown to is not said\.$"),
        ({"branches": 1}, {}, ("grow",), r"^A model of 1 branches is not grown to 1\.$"),
        (
            {"branches": 2, "mode": "serial"},
            {},
            ("grow",),
            r"^A serial network has no branches, and some are asked for",
        ),
        ({}, {"objective": "progressive"}, (), r"^The objective progressive trains prefixes of branches"),
        ({}, {"accumulate": 5}, (), r"^5 batches make a step, and an epoch has 4\.$"),
    ],
)
def test_what_does_not_fit_together_is_told_and_nothing_is_written(
    tmp_path: Path,
    data: Path,
    trained: Path,
    sizes: dict[str, Any],
    schedule: dict[str, Any],
    beginning: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(ParaFormerError, match=message) as caught:
        _train(tmp_path / "model.pt", data, sizes, schedule, **dict.fromkeys(beginning, trained))
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_old_branches_are_trained_only_where_something_grows(tmp_path: Path, data: Path) -> None:
    with pytest.raises(TrainingError, match=r"^--train-old is for a checkpoint that is grown\.$"):
        _train(tmp_path / "model.pt", data, train_old=True)


def test_a_checkpoint_for_texts_does_not_read_images(tmp_path: Path, data: Path) -> None:
    _train(tmp_path / "texts.pt", _texts(tmp_path), {"depth": 1, "width": 16}, {"epochs": 1})
    for how in ("init", "teacher"):
        with pytest.raises(TrainingError, match=r"reads texts, and .* holds images\.$"):
            _train(tmp_path / "model.pt", data, {}, **{how: tmp_path / "texts.pt"})
