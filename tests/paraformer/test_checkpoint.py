"""Checkpoints: what is saved comes back, and anything else is refused without running a line of it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from paraformer import checkpoint
from paraformer.checkpoint import FORMAT, Checkpoint, from_dict, is_checkpoint, load, save
from paraformer.errors import CheckpointError
from paraformer.model import TokenConfig, TokenParaFormer, VisionConfig, VisionParaFormer

CONFIG = VisionConfig(depth=4, width=16, heads=2, hidden=32, image_size=8, patch_size=4, mode="para-former", branches=2)
RECORD = {"options": {"seed": 3}, "epochs": [{"epoch": 1, "loss": 0.5}], "data": "synthetic"}


@pytest.fixture
def trained() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(CONFIG, VisionParaFormer(CONFIG).state_dict(), RECORD)


@pytest.fixture
def file(tmp_path: Path, trained: Checkpoint) -> Path:
    save(tmp_path / "model.pt", trained)
    return tmp_path / "model.pt"


def _content(file: Path) -> dict[str, Any]:
    content = torch.load(file, weights_only=True)
    assert isinstance(content, dict)
    return content


def _saved(file: Path, content: object) -> Path:
    torch.save(content, file)
    return file


def test_a_checkpoint_comes_back_as_it_was_saved(file: Path, trained: Checkpoint) -> None:
    loaded = load(file)
    assert loaded.config == CONFIG
    assert loaded.training == RECORD
    assert list(loaded.state_dict) == list(trained.state_dict)
    assert all(torch.equal(loaded.state_dict[name], value) for name, value in trained.state_dict.items())


def test_a_built_model_computes_what_the_saved_one_did_and_is_in_eval_mode(file: Path, trained: Checkpoint) -> None:
    original = VisionParaFormer(CONFIG)
    original.load_state_dict(trained.state_dict)
    images = torch.rand(2, 1, 8, 8) * 255
    built = load(file).build()
    assert not any(module.training for module in built.modules())
    assert torch.equal(built(images), original.eval()(images))


def test_a_file_holds_the_format_the_config_and_the_shape_of_one_sample_as_plain_values(file: Path) -> None:
    content = _content(file)
    assert content.keys() == {"format", "kind", "config", "state_dict", "input_shape", "training"}
    assert content["format"] == FORMAT == "paraformer-checkpoint/2"
    assert content["kind"] == "vision"
    assert content["config"] == CONFIG.to_dict()
    assert content["input_shape"] == [1, 8, 8]


def test_directories_on_the_way_are_made(tmp_path: Path, trained: Checkpoint) -> None:
    save(tmp_path / "runs" / "first" / "model.pt", trained)
    assert load(tmp_path / "runs" / "first" / "model.pt").config == CONFIG


def test_a_record_may_be_absent(file: Path) -> None:
    content = _content(file)
    del content["training"]
    assert load(_saved(file, content)).training == {}


def test_the_format_tag_is_what_makes_a_checkpoint() -> None:
    assert is_checkpoint({"format": "paraformer-checkpoint/1"})
    assert is_checkpoint({"format": "paraformer-checkpoint/2"})
    for other in ({}, {"format": "other/1"}, {"format": None}, [FORMAT], FORMAT, None):
        assert not is_checkpoint(other)


def test_another_version_of_the_format_is_refused_by_its_name(file: Path) -> None:
    content = _content(file) | {"format": "paraformer-checkpoint/3"}
    with pytest.raises(CheckpointError, match=r"has the format 'paraformer-checkpoint/3', this version reads '.*/2'"):
        load(_saved(file, content))


def test_a_file_of_the_first_version_is_an_image_model_whose_branches_are_added_and_tokens_averaged(
    file: Path, trained: Checkpoint
) -> None:
    content = _content(file) | {"format": "paraformer-checkpoint/1"}
    del content["kind"], content["config"]["merge"], content["config"]["pooling"]
    loaded = load(_saved(file, content))
    assert loaded.config == CONFIG
    images = torch.rand(2, 1, 8, 8) * 255
    assert torch.equal(loaded.build()(images), trained.build()(images))


def test_the_shipped_model_computes_what_its_blocks_do_one_after_another_to_the_bit() -> None:
    model = load(Path(__file__).parents[2] / "examples/fashion_vit/vit12.pt").build()
    assert isinstance(model, VisionParaFormer)
    images = torch.randint(0, 256, (2, 1, 28, 28), generator=torch.Generator().manual_seed(0)).float()
    state = model.embed(images)
    for block in model.blocks:
        state = block(state)
    assert torch.equal(model(images), model.head(model.norm(state).mean(1)))


def test_a_token_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    config = TokenConfig(vocabulary=9, length=6, width=16, heads=2, hidden=32, depth=2, mode="para-former", branches=2)
    model = TokenParaFormer(config).eval()
    save(tmp_path / "tokens.pt", Checkpoint(config, model.state_dict()))
    loaded = load(tmp_path / "tokens.pt")
    assert loaded.config == config
    ids, mask = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert torch.equal(loaded.build()(ids, mask), model(ids, mask))


def test_an_unknown_kind_and_an_unknown_field_are_refused_by_their_names(file: Path) -> None:
    content = _content(file)
    with pytest.raises(CheckpointError, match=r"the kind 'sound' is none of 'vision', 'tokens'\."):
        load(_saved(file, content | {"kind": "sound"}))
    with pytest.raises(CheckpointError, match=r"its config has the unknown field 'gates'\."):
        load(_saved(file, content | {"config": content["config"] | {"gates": 2}}))


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"weight": torch.zeros(2)}, torch.zeros(3), [1, 2]])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointError, match=r"model\.pt is not a Para-Former checkpoint\.$") as caught:
        load(_saved(tmp_path / "model.pt", content))
    assert FORMAT in caught.value.hint


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt does not exist\.$"):
        load(tmp_path / "none.pt")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load(tmp_path)


def test_a_truncated_file_is_refused_wherever_it_was_cut(file: Path) -> None:
    whole = file.read_bytes()
    for length in (0, 1, 4, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="it is damaged or holds pickled objects"):
            load(file)


@pytest.mark.parametrize("content", [b"hello world\n", b"(X\x01\x00\x00\x00\xff."])
def test_a_file_that_torch_never_wrote_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load(tmp_path / "model.pt")


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds pickled objects"):
        load(_saved(tmp_path / "model.pt", nn.Linear(2, 2)))


class _WritesWhenLoaded:
    """An object whose pickle writes a file when it is read carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.target, "code ran"))


@pytest.mark.parametrize("as_torch_file", [True, False])
def test_code_in_a_file_does_not_run(tmp_path: Path, file: Path, *, as_torch_file: bool) -> None:
    trace = tmp_path / "trace"
    content = {"format": FORMAT, "config": CONFIG.to_dict(), "state_dict": _WritesWhenLoaded(trace)}
    if as_torch_file:
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match="holds pickled objects"):
        load(file)
    assert not trace.exists()


@pytest.mark.parametrize("part", ["config", "state_dict"])
def test_a_missing_part_is_refused_by_its_name(file: Path, part: str) -> None:
    content = _content(file)
    del content[part]
    with pytest.raises(CheckpointError, match=rf"model\.pt is not a whole checkpoint: '{part}'\."):
        load(_saved(file, content))


@pytest.mark.parametrize("config", [None, [1], CONFIG.to_dict() | {"heads": 5}, CONFIG.to_dict() | {"mode": "wide"}])
def test_a_config_that_makes_no_sense_is_refused(file: Path, config: object) -> None:
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        load(_saved(file, _content(file) | {"config": config}))


def test_the_origin_is_named_in_the_refusal() -> None:
    with pytest.raises(CheckpointError, match=r"^here/it\.pt is not a whole checkpoint"):
        from_dict({"format": FORMAT}, "here/it.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 32}, "size mismatch"), ({"depth": 6}, "Missing key"), ({"depth": 2}, "Unexpected key")],
)
def test_weights_that_do_not_fit_the_sizes_are_refused(
    trained: Checkpoint, change: dict[str, int], message: str
) -> None:
    misfit = replace(trained, config=replace(CONFIG, **change))
    with pytest.raises(CheckpointError, match=rf"^The checkpoint's weights do not fit its own config: .*{message}"):
        misfit.build()


def test_weights_that_are_no_dictionary_are_refused(file: Path) -> None:
    with pytest.raises(CheckpointError):
        load(_saved(file, _content(file) | {"state_dict": [1, 2]})).build()


def test_a_save_that_fails_half_way_leaves_the_old_file_and_nothing_else(
    file: Path, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def write_half(_value: object, path: Path) -> None:
        path.write_bytes(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", write_half)
    with pytest.raises(OSError, match="No space left"):
        save(file, replace(trained, training={"run": "second"}))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_new_file_takes_the_place_of_the_old_one_only_when_it_is_whole(
    file: Path, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = file.read_bytes(), torch.save

    def write_and_look(value: object, path: Path) -> None:
        write(value, path)
        assert path.parent == file.parent
        assert file.read_bytes() == before

    monkeypatch.setattr(checkpoint.torch, "save", write_and_look)
    save(file, replace(trained, training={"run": "second"}))
    assert load(file).training == {"run": "second"}
    assert list(file.parent.iterdir()) == [file]
