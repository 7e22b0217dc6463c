"""An adapter is merged into its base model, or refused; it is never left out in silence."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from passes.errors import EnvironmentLackError
from tests.parallelize.models.sources.cases import load, refusal

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
LAYERS, WIDTH, RANK = 2, 16, 2


def save_base(directory: str) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=32, n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_positions=16)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(directory)
    return model


def save_adapter(directory: str, base: str = "base") -> dict[str, torch.Tensor]:
    """An adapter of what GPT-2 projects to queries, keys and values; its change of the weights by name."""
    Path(directory).mkdir(exist_ok=True)
    names = [f"transformer.h.{layer}.attn.c_attn" for layer in range(LAYERS)]
    down, up = torch.randn(LAYERS, RANK, WIDTH), torch.randn(LAYERS, 3 * WIDTH, RANK)
    state = {f"base_model.model.{name}.lora_A.weight": down[i].clone() for i, name in enumerate(names)}
    state |= {f"base_model.model.{name}.lora_B.weight": up[i].clone() for i, name in enumerate(names)}
    safetensors.save_file(state, f"{directory}/adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": RANK, "lora_alpha": 4, "bias": "none"}
    config |= {"target_modules": ["c_attn"], "task_type": "CAUSAL_LM", "fan_in_fan_out": True}
    Path(directory, "adapter_config.json").write_text(json.dumps(config))
    return {f"{name}.weight": 2.0 * (up[i] @ down[i]).T for i, name in enumerate(names)}


@pytest.mark.parametrize("lone", [False, True])
def test_without_peft_an_adapter_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, lone: bool) -> None:
    save_base("base")
    save_adapter("alone" if lone else "base")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(EnvironmentLackError) as caught:
        load("alone" if lone else "base")
    assert "holds a LoRA adapter, which cannot be merged into its base model: peft" in str(caught.value)
    assert "merge_and_unload" in caught.value.hint


@needs_peft
@pytest.mark.parametrize("lone", [False, True])
def test_an_adapter_is_merged_into_the_weights(home: Path, lone: bool) -> None:
    model = save_base("base")
    change = save_adapter("alone" if lone else "base", "somewhere/base")
    ids, mask = torch.randint(0, 32, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    plain = model(ids).logits
    with torch.no_grad():
        for name, value in change.items():
            model.get_parameter(name).add_(value)
    program = load("alone" if lone else "base")
    result = program.module(ids, mask)["logits"]
    torch.testing.assert_close(result, model(ids).logits, rtol=0, atol=1e-5)
    assert (result - plain).abs().max() > 0.1


@needs_peft
def test_adapters_that_do_not_fit_or_have_no_base_are_refused(home: Path) -> None:
    save_base("base")
    save_adapter("alone", "elsewhere/lost")
    message, hint = refusal("alone")
    assert message == "alone is a LoRA adapter of 'elsewhere/lost', which is no directory on this machine."
    assert "base_model_name_or_path" in hint
    save_adapter("alone")
    state = safetensors.load_file("alone/adapter_model.safetensors")
    safetensors.save_file({f"x.{name}": value for name, value in state.items()}, "alone/adapter_model.safetensors")
    assert refusal("alone")[0].startswith("The adapter of alone does not fit its base model: ")
    shutil.copy("base/config.json", "alone/adapter_model.safetensors")
    assert refusal("alone")[0].startswith("The adapter of alone cannot be merged (")
