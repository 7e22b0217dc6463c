"""Models of sound: encoders of speech, Conformers, codecs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.zoo.entry import Entry, Feed, pretrained
from benchmarks.zoo.signal_encoders import SIZES, TERMS

WAVES = {"input_values": Feed((3, 400))}
FRAMES = {"input_features": Feed((3, 20, 16))}
FEATURES: dict[str, Any] = {
    **SIZES,
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 2,
}
SPECTROGRAM: dict[str, Any] = {
    **SIZES,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
    "max_length": 32,
    "num_mel_bins": 16,
}
WAVE_CONFORMER: dict[str, Any] = {**FEATURES, "conv_depthwise_kernel_size": 5, "max_source_positions": 64}
BERT_CONFORMER: dict[str, Any] = {
    **SIZES,
    "feature_projection_input_dim": 16,
    "conv_depthwise_kernel_size": 5,
    "left_max_position_embeddings": 4,
    "right_max_position_embeddings": 2,
}
SEW: dict[str, Any] = {**FEATURES, "squeeze_factor": 2}
PARAKEET: dict[str, Any] = {
    **SIZES,
    "conv_kernel_size": 5,
    "subsampling_factor": 4,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 16,
    "max_position_embeddings": 64,
}
CODEC: dict[str, Any] = {
    "num_filters": 8,
    "hidden_size": 16,
    "codebook_dim": 16,
    "codebook_size": 16,
    "upsampling_ratios": [4, 2],
    "num_residual_layers": 3,
    "num_lstm_layers": 2,
}


def entries() -> Iterator[Entry]:
    """All of them."""
    for name, kind in (("hubert", "HubertModel"), ("wavlm", "WavLMModel"), ("unispeech", "UniSpeechModel")):
        yield Entry(name, pretrained(kind, **FEATURES), WAVES, ({"convolution": 1}, *TERMS), slow=True)
    yield Entry("data2vec-audio", pretrained("Data2VecAudioModel", **DATA2VEC), WAVES, slow=True)
    yield Entry("wav2vec2-conformer", pretrained("Wav2Vec2ConformerModel", **WAVE_CONFORMER), WAVES, slow=True)
    rotary = pretrained("Wav2Vec2ConformerModel", **WAVE_CONFORMER, position_embeddings_type="rotary")
    yield Entry("wav2vec2-conformer-rotary", rotary, WAVES, slow=True)
    yield Entry("wav2vec2-bert", pretrained("Wav2Vec2BertModel", **BERT_CONFORMER), FRAMES, slow=True)
    yield Entry("sew", pretrained("SEWModel", **SEW), WAVES, slow=True)
    yield Entry("parakeet", pretrained("ParakeetEncoder", **PARAKEET), FRAMES, slow=True)
    frames = {"input_values": Feed((3, 32, 16))}
    yield Entry("ast", pretrained("ASTModel", **SPECTROGRAM), frames, TERMS, slow=True)
    waves = {"input_values": Feed((3, 1, 64))}
    yield Entry("encodec", pretrained("EncodecModel", **CODEC), waves, uncaptured="data-dependent", slow=True)
    yield Entry("hifi-gan", pretrained("SpeechT5HifiGan", **HIFI_GAN), {"spectrogram": Feed((3, 9, 16))}, slow=True)


DATA2VEC: dict[str, Any] = {**FEATURES, "conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2}
HIFI_GAN: dict[str, Any] = {
    "model_in_dim": 16,
    "upsample_initial_channel": 32,
    "upsample_rates": [2, 2],
    "upsample_kernel_sizes": [4, 4],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
}
