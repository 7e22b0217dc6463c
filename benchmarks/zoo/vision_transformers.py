"""More vision transformers: windows, pyramids, pooled keys, taps, videos, and models of two towers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.zoo.entry import BLOCKS, HEADS, HIDDEN, VOCABULARY, WIDTH, Entry, Feed, pixels, pretrained, text
from benchmarks.zoo.signal_encoders import PATCHES, SIZES, TERMS

IRREGULAR = {"siglip-vision", "yolos", "vitdet"}  # a head that adds too, or something between the blocks
STAGE = {"attention": 2, "mlp": 2}
CLIP_TEXT: dict[str, Any] = {
    **SIZES,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
WINDOWS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
PYRAMID: dict[str, Any] = {
    "num_encoder_blocks": 2,
    "depths": [2, 2],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
}
VIDEO = {"pixel_values": Feed((3, 2, 3, 16, 16))}
CLIPS: dict[str, Any] = {**SIZES, "image_size": 16, "patch_size": 8, "num_frames": 2}


def entries() -> Iterator[Entry]:
    """All of them; most take long, because their checks are those of larger graphs."""
    decoder = {
        "decoder_hidden_size": WIDTH,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": HEADS,
        "decoder_intermediate_size": HIDDEN,
    }
    listed = {
        "vit-msn": pretrained("ViTMSNModel", **PATCHES),
        "dinov2": pretrained("Dinov2Model", **PATCHES, mlp_ratio=2),
        "dinov2-swiglu": pretrained("Dinov2Model", **PATCHES, mlp_ratio=2, use_swiglu_ffn=True),
        "dinov2-registers": pretrained("Dinov2WithRegistersModel", **PATCHES, mlp_ratio=2, num_register_tokens=2),
        "dinov3": pretrained("DINOv3ViTModel", **PATCHES, num_register_tokens=2),
        "siglip-vision": pretrained("SiglipVisionModel", **PATCHES),
        "data2vec-vision": pretrained("Data2VecVisionModel", **PATCHES, use_relative_position_bias=True),
        "ijepa": pretrained("IJepaModel", **PATCHES),
        "aimv2": pretrained("Aimv2VisionModel", **PATCHES, qkv_bias=False),
        "yolos": pretrained("YolosModel", **{**PATCHES, "image_size": [32, 32]}, num_detection_tokens=4),
        "vitpose-backbone": pretrained("VitPoseBackbone", **VITPOSE),
        "vitdet": pretrained("VitDetModel", **VITDET),
    }
    for name, build in listed.items():
        yield Entry(name, build, pixels(), None if name in IRREGULAR else TERMS, slow=True)
    mae = pretrained("ViTMAEModel", **PATCHES, **decoder, mask_ratio=0.5)
    yield Entry("vit-mae", mae, {**pixels(), "noise": Feed((3, 16))}, TERMS, slow=True)  # drawn in forward otherwise
    yield Entry("swin-v2", pretrained("Swinv2Model", **WINDOWS), pixels(), (STAGE, STAGE), slow=True)
    yield Entry("swin-2-super-resolution", pretrained("Swin2SRModel", **SWIN2SR), pixels(16), slow=True)
    yield Entry("segformer", pretrained("SegformerModel", **PYRAMID), pixels(), slow=True)
    yield Entry("pvt", pretrained("PvtModel", **PVT), pixels(), (STAGE, STAGE), slow=True)
    yield Entry("pvt-v2", pretrained("PvtV2Model", **PVT_V2), pixels(), slow=True)
    yield Entry("cvt", pretrained("CvtModel", **CVT), pixels(), (STAGE, STAGE), slow=True)
    yield Entry("levit", pretrained("LevitModel", **LEVIT), pixels(64), slow=True)
    yield Entry("mobilevit", pretrained("MobileViTModel", **MOBILEVIT), pixels(64), slow=True)
    yield Entry("swiftformer", pretrained("SwiftFormerModel", **SWIFT), pixels(), slow=True)
    yield Entry("hiera", pretrained("HieraModel", **HIERA), pixels(), slow=True)
    yield Entry("focalnet", pretrained("FocalNetModel", **FOCAL), pixels(), slow=True)
    yield Entry("poolformer", pretrained("PoolFormerModel", **POOL), pixels(), slow=True)
    yield Entry("dpt", pretrained("DPTForDepthEstimation", **DPT), pixels(), slow=True)
    yield Entry("sam-vision", pretrained("SamVisionModel", **SAM), pixels(), TERMS, slow=True)
    yield Entry("vivit", pretrained("VivitModel", **VIVIT), VIDEO, TERMS, slow=True)
    yield Entry("videomae", pretrained("VideoMAEModel", **CLIPS, tubelet_size=1), VIDEO, TERMS, slow=True)
    yield Entry("timesformer", pretrained("TimesformerModel", **CLIPS), VIDEO, slow=True)
    words_and_pixels = {**text(free=False), **pixels()}
    yield Entry("vilt", pretrained("ViltModel", **VILT), words_and_pixels, uncaptured="data-dependent", slow=True)
    towers = {**text(free=False), **pixels()}
    yield Entry("clip", _towers("CLIPModel"), towers, TERMS * 2, slow=True)
    yield Entry("siglip", _towers("SiglipModel"), {**text(mask=False, free=False), **pixels()}, slow=True)
    yield Entry("perceiver", pretrained("PerceiverModel", **PERCEIVER), {"inputs": Feed((3, 9, 24))}, slow=True)


def _towers(name: str) -> Any:
    return pretrained(name, text_config=CLIP_TEXT, vision_config=PATCHES, projection_dim=16)


VITPOSE: dict[str, Any] = {**SIZES, "image_size": [32, 32], "patch_size": [8, 8], "mlp_ratio": 2}
VITDET: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "mlp_ratio": 2,
    "image_size": 32,
    "pretrain_image_size": 32,
    "patch_size": 8,
    "window_block_indices": [0, 1],
    "window_size": 2,
    "use_relative_position_embeddings": True,
}
SWIN2SR: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 1,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "mlp_ratio": 2.0,
}
PVT: dict[str, Any] = {
    "image_size": 32,
    "num_encoder_blocks": 2,
    "depths": [2, 2],
    "sequence_reduction_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [4, 2],
    "strides": [4, 2],
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
}
PVT_V2: dict[str, Any] = {**PYRAMID, "image_size": 32}
CVT: dict[str, Any] = {
    "patch_sizes": [7, 3],
    "patch_stride": [4, 2],
    "patch_padding": [2, 1],
    "embed_dim": [16, 32],
    "num_heads": [2, 4],
    "depth": [2, 2],
    "mlp_ratio": [2.0, 2.0],
    "attention_drop_rate": [0.0, 0.0],
    "drop_rate": [0.0, 0.0],
    "drop_path_rate": [0.0, 0.0],
    "qkv_bias": [True, True],
    "cls_token": [False, True],
    "qkv_projection_method": ["dw_bn", "dw_bn"],
    "kernel_qkv": [3, 3],
    "padding_kv": [1, 1],
    "stride_kv": [2, 2],
    "padding_q": [1, 1],
    "stride_q": [1, 1],
}
LEVIT: dict[str, Any] = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 32],
    "num_attention_heads": [2, 2, 2],
    "depths": [2, 2, 2],
    "key_dim": [8, 8, 8],
    "mlp_ratio": [2, 2, 2],
    "attention_ratio": [2, 2, 2],
}
MOBILEVIT: dict[str, Any] = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 32],
    "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 32],
    "num_attention_heads": 2,
    "expand_ratio": 2.0,
}
SWIFT: dict[str, Any] = {"image_size": 64, "depths": [2, 2, 2, 2], "embed_dims": [8, 16, 24, 32], "mlp_ratio": 2}
HIERA: dict[str, Any] = {
    "embed_dim": 16,
    "image_size": [32, 32],
    "patch_size": [7, 7],
    "patch_stride": [4, 4],
    "patch_padding": [3, 3],
    "mlp_ratio": 2.0,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "embed_dim_multiplier": 2.0,
    "num_query_pool": 1,
    "query_stride": [2, 2],
    "masked_unit_size": [4, 4],
    "masked_unit_attention": [True, False],
}
FOCAL: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "hidden_sizes": [16, 32],
    "depths": [2, 2],
    "focal_levels": [2, 2],
    "focal_windows": [3, 3],
    "mlp_ratio": 2.0,
}
POOL: dict[str, Any] = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [2, 2, 2, 2],
    "mlp_ratio": 2.0,
    "layer_scale_init_value": 0.1,
}
DPT: dict[str, Any] = {
    **PATCHES,
    "is_hybrid": False,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 8, 16, 16],
    "fusion_hidden_size": 16,
}
SAM: dict[str, Any] = {
    "hidden_size": WIDTH,
    "output_channels": 16,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "image_size": 32,
    "patch_size": 4,
    "mlp_dim": HIDDEN,
    "window_size": 4,
    "global_attn_indexes": [1, 3],
}
VIVIT: dict[str, Any] = {**SIZES, "image_size": 16, "num_frames": 2, "tubelet_size": [1, 8, 8]}
VILT: dict[str, Any] = {
    **PATCHES,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "max_image_length": 16,
    "modality_type_vocab_size": 2,
}
PERCEIVER: dict[str, Any] = {
    "d_model": 24,
    "d_latents": WIDTH,
    "num_latents": 6,
    "num_blocks": 1,
    "num_self_attends_per_block": BLOCKS,
    "num_self_attention_heads": HEADS,
    "num_cross_attention_heads": 2,
}
