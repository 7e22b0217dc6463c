"""Decoders of text without a cache: causal attention, rotary positions, gated MLPs, or blocks parallel already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from benchmarks.zoo.entry import BLOCKS, HEADS, HIDDEN, VOCABULARY, WIDTH, Entry, pretrained, text

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
    "use_cache": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GATED: dict[str, Any] = {**SIZES, "intermediate_size": HIDDEN, "num_key_value_heads": 2}
GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": BLOCKS,
    "n_head": HEADS,
    "n_positions": 64,
    "use_cache": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GPT_NEO: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_layers": BLOCKS,
    "num_heads": HEADS,
    "attention_types": [[["global", "local"], 2]],
    "window_size": 4,
    "max_position_embeddings": 64,
    "use_cache": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
MPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "n_layers": BLOCKS,
    "n_heads": HEADS,
    "expansion_ratio": 2,
    "max_seq_len": 64,
    "use_cache": False,
}
EXPERTS: dict[str, Any] = {"experts_implementation": "batched_mm"}  # the default is for float32 alone
DEEPSEEK: dict[str, Any] = {
    **SIZES,
    **EXPERTS,
    "intermediate_size": HIDDEN,
    "moe_intermediate_size": 16,
    "num_key_value_heads": HEADS,
    "first_k_dense_replace": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
BESIDE = {"codegen", "phi", "cohere2"}  # attention and MLP read one norm
TERMS = ({"attention": BLOCKS, "mlp": BLOCKS},)
PARALLEL = ({"attention+mlp": BLOCKS},)


def entries() -> Iterator[Entry]:
    """All decoders."""
    yield Entry("gpt2", _gpt2, text(), TERMS, slow=True)
    yield Entry("gpt-neox", _gpt_neox, text(), PARALLEL, slow=True)
    yield Entry("gpt-j", _gpt_j, text(), PARALLEL, slow=True)
    yield Entry("opt", _opt, text(), TERMS, slow=True)
    yield Entry("llama-sdpa", lambda: _llama("sdpa"), text(), TERMS)
    yield Entry("llama-eager", lambda: _llama("eager"), text(), TERMS, slow=True)
    yield Entry("mistral", _mistral, text(), TERMS, slow=True)
    yield Entry("qwen2", _qwen2, text(), TERMS, slow=True)
    yield Entry("gemma2", _gemma2, text(), TERMS, slow=True)
    yield Entry("falcon", _falcon, text(), PARALLEL, slow=True)
    yield Entry("cohere", _cohere, text(), PARALLEL, slow=True)
    yield Entry("bloom", _bloom, text(), TERMS, slow=True)
    ctrl = pretrained("CTRLModel", **GPT, dff=HIDDEN)
    yield Entry("ctrl", ctrl, text(free=False), uncaptured="changes its buffer", slow=True)
    yield from _more()


def _more() -> Iterator[Entry]:
    """Decoders that differ from the ones above in one thing each."""
    listed = {
        "gpt-neo": pretrained("GPTNeoModel", **GPT_NEO),
        "codegen": pretrained("CodeGenModel", **GPT, rotary_dim=4),
        "gpt-bigcode": pretrained("GPTBigCodeModel", **GPT),
        "openai-gpt": pretrained("OpenAIGPTModel", **GPT),
        "biogpt": pretrained("BioGptModel", **SIZES, intermediate_size=HIDDEN),
        "mpt": pretrained("MptModel", **MPT),
        "phi": pretrained("PhiModel", **SIZES, intermediate_size=HIDDEN),
        "phi3": pretrained("Phi3Model", **GATED),
        "gemma": pretrained("GemmaModel", **GATED, head_dim=8),
        "gemma3": pretrained("Gemma3TextModel", **GATED, head_dim=8, sliding_window=4),
        "qwen3": pretrained("Qwen3Model", **GATED, head_dim=8),
        "olmo": pretrained("OlmoModel", **GATED),
        "olmo2": pretrained("Olmo2Model", **GATED),
        "stablelm": pretrained("StableLmModel", **GATED),
        "starcoder2": pretrained("Starcoder2Model", **GATED),
        "granite": pretrained("GraniteModel", **GATED, residual_multiplier=0.5),
        "glm": pretrained("GlmModel", **GATED, head_dim=8),
        "glm4": pretrained("Glm4Model", **GATED, head_dim=8),
        "nemotron": pretrained("NemotronModel", **GATED),
        "persimmon": pretrained("PersimmonModel", **SIZES, intermediate_size=HIDDEN),
        "helium": pretrained("HeliumModel", **GATED, head_dim=8),
        "smollm3": pretrained("SmolLM3Model", **GATED),
        "exaone4": pretrained("Exaone4Model", **GATED, sliding_window=4),
        "cohere2": pretrained("Cohere2Model", **GATED, sliding_window=4),
        "diffllama": pretrained("DiffLlamaModel", **GATED),
        "deepseek-v3": pretrained("DeepseekV3Model", **DEEPSEEK),
        "mixtral": pretrained("MixtralModel", **GATED, num_local_experts=4, **EXPERTS),
        "olmoe": pretrained("OlmoeModel", **GATED, num_experts=4, num_experts_per_tok=2, **EXPERTS),
    }
    for name, build in listed.items():
        terms = PARALLEL if name in BESIDE else TERMS
        yield Entry(name, build, text(free=False), None if name in {"mixtral", "olmoe"} else terms, slow=True)


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(GPT2Config(**GPT))


def _gpt_neox() -> nn.Module:
    """The block is x + attention(n1 x) + mlp(n2 x)."""
    from transformers import GPTNeoXConfig, GPTNeoXModel

    return GPTNeoXModel(GPTNeoXConfig(**SIZES, intermediate_size=HIDDEN))


def _gpt_j() -> nn.Module:
    """The block is x + attention(n x) + mlp(n x)."""
    from transformers import GPTJConfig, GPTJModel

    return GPTJModel(GPTJConfig(**GPT, rotary_dim=4))


def _opt() -> nn.Module:
    from transformers import OPTConfig, OPTModel

    return OPTModel(OPTConfig(**SIZES, ffn_dim=HIDDEN, word_embed_proj_dim=WIDTH))


def _llama(attention: str) -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(LlamaConfig(**GATED, attn_implementation=attention))


def _mistral() -> nn.Module:
    """A window of tokens that each token sees."""
    from transformers import MistralConfig, MistralModel

    return MistralModel(MistralConfig(**GATED, sliding_window=4))


def _qwen2() -> nn.Module:
    from transformers import Qwen2Config, Qwen2Model

    return Qwen2Model(Qwen2Config(**GATED))


def _gemma2() -> nn.Module:
    """A norm before and after each sublayer, scores held in bounds by tanh."""
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(Gemma2Config(**GATED, head_dim=8, sliding_window=4))


def _falcon() -> nn.Module:
    """One key head for all queries, attention beside MLP."""
    from transformers import FalconConfig, FalconModel

    return FalconModel(FalconConfig(**SIZES, multi_query=True, parallel_attn=True, new_decoder_architecture=False))


def _cohere() -> nn.Module:
    """The block is (x + attention(n x)) + mlp(n x): two adds on one state."""
    from transformers import CohereConfig, CohereModel

    return CohereModel(CohereConfig(**GATED))


def _bloom() -> nn.Module:
    """Positions as a bias of the scores that falls with distance (ALiBi)."""
    from transformers import BloomConfig, BloomModel

    return BloomModel(
        BloomConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            n_layer=BLOCKS,
            n_head=HEADS,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )
