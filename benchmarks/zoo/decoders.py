"""Decoders of text without a cache: causal attention, rotary positions, gated MLPs, or blocks parallel already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from benchmarks.zoo.entry import BLOCKS, HEADS, HIDDEN, VOCABULARY, WIDTH, Entry, text

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
TERMS = ({"attention": BLOCKS, "mlp": BLOCKS},)
PARALLEL = ({"attention+mlp": BLOCKS},)


def entries() -> Iterator[Entry]:
    """All decoders."""
    yield Entry("gpt2", _gpt2, text(), TERMS)
    yield Entry("gpt-neox", _gpt_neox, text(), PARALLEL, slow=True)
    yield Entry("gpt-j", _gpt_j, text(), PARALLEL)
    yield Entry("opt", _opt, text(), TERMS)
    yield Entry("llama-sdpa", lambda: _llama("sdpa"), text(), TERMS)
    yield Entry("llama-eager", lambda: _llama("eager"), text(), TERMS, slow=True)
    yield Entry("mistral", _mistral, text(), TERMS, slow=True)
    yield Entry("qwen2", _qwen2, text(), TERMS)
    yield Entry("gemma2", _gemma2, text(), TERMS, slow=True)
    yield Entry("falcon", _falcon, text(), PARALLEL, slow=True)
    yield Entry("cohere", _cohere, text(), PARALLEL)
    yield Entry("bloom", _bloom, text(), TERMS)


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
