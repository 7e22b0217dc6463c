"""Directories of save_pretrained: loaded offline with the config's class, or refused in one sentence."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parallelize.models.program import Program
from passes.errors import EnvironmentLackError
from passes.stacks.accounting import unaccounted
from passes.stacks.find import find_stacks
from tests.parallelize.models.sources.cases import Harmful, load, refusal

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = SIZES | {"vocab_size": 99, "max_position_embeddings": 64}
T5 = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 99}
T5 |= {"decoder_start_token_id": 0}
WHISPER = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 99, "num_mel_bins": 20}
WHISPER |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_source_positions": 50}
WHISPER |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_target_positions": 40, "pad_token_id": 0}
WHISPER |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
SOUND = SIZES | {"conv_dim": [16] * 7, "vocab_size": 32, "num_conv_pos_embeddings": 16}
SOUND |= {"num_conv_pos_embedding_groups": 4}
CLIP_TEXT = TEXT | {"bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 1}
PIXELS = SIZES | {"image_size": 32, "patch_size": 8}
IDS = {"input_ids": ("batch", "tokens"), "attention_mask": ("batch", "tokens")}
DECODER = {"decoder_input_ids": ("batch", "decoder_tokens")}
CASES = {
    "BertForSequenceClassification": (TEXT, IDS, [4]),
    "GPT2LMHeadModel": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "n_positions": 64}, IDS, [4]),
    "LlamaForCausalLM": (TEXT | {"num_key_value_heads": 2}, IDS, [4]),
    "T5EncoderModel": (T5, IDS, [4]),
    "T5ForConditionalGeneration": (T5, IDS | DECODER, [4, 6]),
    "ViTForImageClassification": (PIXELS, {"pixel_values": ("batch", 3, 32, 32)}, [4]),
    "Wav2Vec2ForCTC": (SOUND, {"input_values": ("batch", 16000)}, [1, 4]),
    "ASTForAudioClassification": (
        SIZES | {"max_length": 64, "num_mel_bins": 32},
        {"input_values": ("batch", 64, 32)},
        [4],
    ),
    "WhisperForConditionalGeneration": (WHISPER, {"input_features": ("batch", 20, 100)} | DECODER, [4, 6]),
    "CLIPModel": (
        {"text_config": CLIP_TEXT, "vision_config": PIXELS, "projection_dim": 16},
        IDS | {"pixel_values": ("batch", 3, 32, 32)},
        [4, 4],
    ),
}
# Text and images; the others, sound and decoders beside encoders among them, take seconds each.
QUICK = {"BertForSequenceClassification", "GPT2LMHeadModel", "ViTForImageClassification"}


def _model(name: str, config: Mapping[str, Any]) -> Any:
    """A small model of random weights whose class has this name."""
    torch.manual_seed(0)
    found = getattr(transformers, name)
    return found(found.config_class(**config)).eval()


def _saved(name: str = "BertForSequenceClassification", directory: str = "saved", **changes: Any) -> Any:
    """A model saved under the current directory, with changes to its config.json; a None removes a key."""
    model = _model(name, CASES[name][0])
    model.save_pretrained(directory)
    _change(directory, **changes)
    return model


def _change(directory: str, **changes: Any) -> None:
    path = Path(directory, "config.json")
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def _example(program: Program, batch: int) -> dict[str, torch.Tensor]:
    """Inputs by name; every sample but the first is padded."""
    torch.manual_seed(1)
    inputs = {}
    for spec in program.inputs:
        size = spec.sizes({"batch": batch, "tokens": 11, "decoder_tokens": 7})
        inputs[spec.name] = torch.randn(size) if spec.dtype.is_floating_point else torch.randint(3, 90, size)
    if "attention_mask" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
        inputs["attention_mask"][1:, 7:] = 0
    return inputs


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_saved_model_is_captured_without_telling_its_inputs_and_gives_its_own_numbers(home: Path, name: str) -> None:
    model = _saved(name)
    program = load("saved")
    assert {spec.name: spec.shape for spec in program.inputs} == CASES[name][1]
    found = find_stacks(program.module)
    assert [len(stack.terms) for stack in found.stacks] == CASES[name][2]
    assert unaccounted(program.module, found) == ()
    for batch in (1, 3):
        inputs = _example(program, batch)
        with torch.no_grad():
            cache = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
            expected = program.flat_outputs(model(**inputs, **cache))
            result = program.flat_outputs(program.module(*inputs.values()))
        for left, right in zip(result, expected, strict=True):
            assert torch.allclose(left, right, atol=1e-5)


@pytest.mark.slow
def test_nothing_is_fetched_printed_or_warned_of(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    _saved("LlamaForCausalLM")
    capfd.readouterr()
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    load("saved")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_weights_of_half_precision_are_loaded_as_float32(home: Path) -> None:
    _model("BertForSequenceClassification", TEXT).to(torch.bfloat16).save_pretrained("saved")
    assert json.loads(Path("saved/config.json").read_text())["dtype"] == "bfloat16"
    assert load("saved").outputs[0].dtype == torch.float32


def test_weights_are_read_from_a_pickle_of_tensors_and_from_no_other(home: Path) -> None:
    model = _saved()
    Path("saved/model.safetensors").unlink()
    torch.save(model.state_dict(), "saved/pytorch_model.bin")
    program = load("saved")
    inputs = _example(program, 2)
    assert torch.allclose(program.module(*inputs.values())["logits"], model(**inputs).logits, atol=1e-6)
    torch.save(Harmful(), "saved/pytorch_model.bin")
    assert refusal("saved")[0].startswith("The weights of saved are damaged or do not fit its config (UnpicklingError")
    assert not Path("trace").exists()


def test_shapes_on_the_command_line_override(home: Path) -> None:
    _saved()
    program = load("saved", "input_ids:1x9@int64")
    assert [(spec.name, spec.shape) for spec in program.inputs] == [("input_ids", (1, 9))]


@pytest.mark.slow
def test_data_chooses_the_inputs_and_leaves_tokens_free(home: Path) -> None:
    _saved()
    ids = np.ones((5, 9), np.int32)
    program = load("saved", samples={"input_ids": ids, "labels": np.zeros(5, np.int64), "other": ids})
    assert [(spec.name, spec.shape, spec.dtype) for spec in program.inputs] == [
        ("input_ids", ("batch", "tokens"), torch.int64)
    ]
    program = load("saved", samples={"input_ids": ids, "token_type_ids": ids.astype(np.uint8)})
    assert [(spec.name, spec.shape, spec.dtype) for spec in program.inputs] == [
        (name, ("batch", "tokens"), torch.int64) for name in ("input_ids", "token_type_ids")
    ]
    assert [spec.name for spec in load("saved", samples={"": ids}).inputs] == ["input_ids"]


@pytest.mark.slow
def test_data_of_another_size_overrides_the_config(home: Path) -> None:
    resnet = {"embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4}
    _model("ResNetForImageClassification", resnet).save_pretrained("saved")
    message, hint = refusal("saved")
    assert message == "The config of saved does not tell the shape of the input 'pixel_values'."
    assert "--input pixel_values:batchx3x224x224" in hint
    program = load("saved", samples={"pixel_values": np.zeros((2, 3, 64, 48), np.uint8)})
    assert [(spec.shape, spec.dtype) for spec in program.inputs] == [(("batch", 3, 64, 48), torch.float32)]
    Path("saved/preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 96}, "crop_size": 64}))
    assert load("saved").inputs[0].shape == ("batch", 3, 64, 64)


def test_more_tokens_than_the_model_has_places_for_are_refused(home: Path) -> None:
    _saved()
    message, hint = refusal("saved", "input_ids:2x80@int64")
    assert message.startswith("saved does not run on an input of 2x80@int64: ")
    assert "--input" in hint


def test_without_a_class_of_its_own_the_base_model_is_loaded(home: Path) -> None:
    _saved(architectures=None)
    assert [spec.name for spec in load("saved").outputs] == ["last_hidden_state", "pooler_output"]
    _change("saved", architectures=["TheirOwnBert"])
    message, _ = refusal("saved")
    assert message == (
        "transformers has no class 'TheirOwnBert', and BertModel leaves out the weight 'classifier.bias' of saved."
    )


def test_weights_that_would_be_random_are_refused(home: Path) -> None:
    _saved(architectures=["BertForMaskedLM"])
    message, hint = refusal("saved")
    assert message.startswith("saved lacks the weight 'cls.predictions.bias' and ")
    assert message.endswith(" more of BertForMaskedLM.")
    assert "random" in hint


def test_code_that_comes_with_a_model_is_not_run(home: Path) -> None:
    code = "import pathlib\npathlib.Path('trace').mkdir()\n"
    _saved(model_type="theirs", auto_map={"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"})
    Path("saved/theirs.py").write_text(code)
    message, hint = refusal("saved")
    assert message == "The model_type 'theirs' of saved is code that comes with the model, which is not run."
    assert "file.py:factory" in hint
    _change("saved", model_type="bert", architectures=["Model"])
    assert refusal("saved")[0] == "The class 'Model' of saved is code that comes with the model, which is not run."
    assert not Path("trace").exists()
    _change("saved", architectures=["BertForSequenceClassification"])
    assert load("saved").outputs[0].name == "logits"


def test_incomplete_and_damaged_directories_are_refused(home: Path) -> None:
    _saved()
    weights = Path("saved/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert refusal("saved")[0].startswith("The weights of saved are damaged or do not fit its config (SafetensorError")
    weights.write_bytes(b"")
    assert refusal("saved")[0].startswith("The weights of saved are damaged")
    weights.write_bytes(whole)
    _change("saved", hidden_size=64)
    assert refusal("saved")[0].startswith("The weights of saved are damaged or do not fit its config (RuntimeError")
    weights.unlink()
    assert refusal("saved")[0] == "saved has no weights: neither model.safetensors nor pytorch_model.bin."


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("{", "saved/config.json is damaged or not JSON."),
        ("[]", "saved/config.json names no model_type."),
        ('{"architecture": "resnet18"}', "saved/config.json names no model_type."),
        ('{"model_type": "bert", "hidden_size": "wide"}', "saved/config.json is no config ("),
        ('{"model_type": "bert", "quantization_config": {"bits": 4}}', "saved holds quantized weights."),
        ('{"model_type": "no-such"}', "saved has the model_type 'no-such', which transformers "),
    ],
)
def test_configs_that_name_no_model_are_refused(home: Path, config: str, sentence: str) -> None:
    Path("saved").mkdir()
    Path("saved/config.json").write_text(config)
    Path("saved/model.safetensors").write_bytes(b"")
    assert refusal("saved")[0].startswith(sentence)


def test_a_saved_model_has_weights_of_its_own(home: Path) -> None:
    _saved()
    assert refusal("saved", weights=Path("w.pt"))[0] == "saved has weights of its own."


def test_without_transformers_the_machine_lacks_something(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _saved()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EnvironmentLackError) as caught:
        load(f".{os.sep}saved")
    assert str(caught.value) == "./saved cannot be loaded: transformers is not installed."
    assert caught.value.hint == 'Install it with `pip install "parallelize[hf]"`.'


def test_a_hint_has_the_rank_and_dtype_that_the_model_documents(home: Path) -> None:
    config = transformers.DecisionTransformerConfig(state_dim=5, act_dim=3, hidden_size=16, n_layer=1, n_head=2)
    transformers.DecisionTransformerModel(config).save_pretrained("saved")
    assert "--input states:batchx16x5," in refusal("saved")[1]
    given = ("states:batchx16x5", "actions:batchx16x3", "rewards:batchx16x1", "returns_to_go:batchx16x1")
    assert len(load("saved", *given, "timesteps:batchx16@int64").inputs) == 5


@pytest.mark.slow
def test_series_and_videos_have_the_rank_that_the_model_reads(home: Path) -> None:
    sizes = {"num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 16}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32, "prediction_length": 8}
    _model("PatchTSTForPrediction", sizes).save_pretrained("series")
    assert load("series").inputs[0].shape == ("batch", 32, 2)
    _model("VideoMAEForVideoClassification", PIXELS | {"num_frames": 4, "tubelet_size": 2}).save_pretrained("video")
    assert load("video").inputs[0].shape == ("batch", 4, 3, 32, 32)
