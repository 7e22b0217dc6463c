"""Encoders of images and sound: transformers over patches or frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from benchmarks.zoo.entry import BLOCKS, HEADS, HIDDEN, PIXELS, WIDTH, Entry, Feed, pixels

SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "intermediate_size": HIDDEN,
}
PATCHES: dict[str, Any] = {**SIZES, "image_size": PIXELS, "patch_size": 8}
TERMS = ({"attention": BLOCKS, "mlp": BLOCKS},)


def images() -> Iterator[Entry]:
    """Encoders of images."""
    yield Entry("vit-sdpa", lambda: _vit("sdpa"), pixels(), TERMS, slow=True)
    yield Entry("vit-eager", lambda: _vit("eager"), pixels(), TERMS, slow=True)
    yield Entry("deit", _deit, pixels(), TERMS, slow=True)
    yield Entry("beit", _beit, pixels(), TERMS, slow=True)
    stage = {"attention": 2, "mlp": 2}
    yield Entry("swin", _swin, pixels(), (stage, stage), slow=True)
    yield Entry("clip-vision", _clip, pixels(), TERMS, slow=True)


def sounds() -> Iterator[Entry]:
    """Encoders of sound."""
    yield Entry("whisper-encoder", _whisper, {"input_features": Feed((3, 16, 40))}, TERMS, slow=True)
    yield Entry("wav2vec2", _wav2vec2, {"input_values": Feed((3, 400))}, ({"convolution": 1}, *TERMS), slow=True)


def _vit(attention: str) -> nn.Module:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**PATCHES, attn_implementation=attention))


def _deit() -> nn.Module:
    from transformers import DeiTConfig, DeiTModel

    return DeiTModel(DeiTConfig(**PATCHES))


def _beit() -> nn.Module:
    """Relative positions as an attention bias, and LayerScale."""
    from transformers import BeitConfig, BeitModel

    return BeitModel(BeitConfig(**PATCHES, use_relative_position_bias=True, layer_scale_init_value=0.1))


def _swin() -> nn.Module:
    """Two stages of two blocks, the second block of each with shifted windows."""
    from transformers import SwinConfig, SwinModel

    return SwinModel(
        SwinConfig(image_size=PIXELS, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    )


def _clip() -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**PATCHES))


def _whisper() -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder(
        WhisperConfig(
            d_model=WIDTH,
            encoder_layers=BLOCKS,
            encoder_attention_heads=HEADS,
            encoder_ffn_dim=HIDDEN,
            num_mel_bins=16,
            max_source_positions=20,
        )
    )


def _wav2vec2() -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    return Wav2Vec2Model(
        Wav2Vec2Config(
            **SIZES,
            conv_dim=(16, 16),
            conv_stride=(5, 4),
            conv_kernel=(10, 8),
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=4,
        )
    )
