"""Encoders with decoders beside them: the decoder's cross-attention reads what the encoder leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from benchmarks.zoo.entry import HEADS, HIDDEN, TOKENS, VOCABULARY, WIDTH, Build, Entry, Feed, pretrained, text

ENCODER, DECODER = {"attention": 2, "mlp": 2}, {"attention": 4, "mlp": 2}
NUMBERS: dict[str, Any] = {
    "use_cache": False,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
BART: dict[str, Any] = {
    **NUMBERS,
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": HIDDEN,
    "decoder_ffn_dim": HIDDEN,
    "max_position_embeddings": 64,
}
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": HIDDEN,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": HEADS,
    "use_cache": False,
    "pad_token_id": 2,
    "decoder_start_token_id": 0,
}
SPEECH: dict[str, Any] = {**BART, "num_mel_bins": 16, "max_source_positions": 64, "max_target_positions": 64}


def entries() -> Iterator[Entry]:
    """All of them, two blocks on either side."""
    both = (ENCODER, DECODER)
    words = {**text(free=False), "decoder_input_ids": Feed((3, 5), tokens=VOCABULARY)}
    listed = {
        "t5": pretrained("T5Model", **T5),
        "t5-gated": pretrained("T5Model", **T5, feed_forward_proj="gated-gelu"),
        "mt5": pretrained("MT5Model", **T5),
        "umt5": pretrained("UMT5Model", **T5),
        "bart": pretrained("BartModel", **BART),
        "mbart": pretrained("MBartModel", **BART),
        "marian": pretrained("MarianModel", **BART),
        "pegasus": pretrained("PegasusModel", **BART),
        "blenderbot": pretrained("BlenderbotModel", **BART),
        "m2m-100": pretrained("M2M100Model", **BART),
    }
    for name, build in listed.items():
        yield Entry(name, build, words, both, slow=True)
    mels = {"input_features": Feed((3, 16, 40)), "decoder_input_ids": Feed((3, 5), tokens=VOCABULARY)}
    whisper = pretrained("WhisperModel", **{**SPEECH, "max_source_positions": 20})
    yield Entry("whisper", whisper, mels, both, slow=True)
    frames = {"input_features": Feed((3, 40, 16)), "decoder_input_ids": Feed((3, 5), tokens=VOCABULARY)}
    speech = pretrained("Speech2TextModel", **SPEECH, conv_channels=16, input_feat_per_channel=16)
    yield Entry("speech-to-text", speech, frames, both, slow=True)
    pair = {"src": Feed((3, TOKENS, WIDTH)), "tgt": Feed((3, 5, WIDTH))}
    yield Entry("torch-transformer-pre-norm", _torch(norm_first=True), pair, both, slow=True)
    yield Entry("torch-transformer-post-norm", _torch(norm_first=False), pair, both, slow=True)


def _torch(*, norm_first: bool) -> Build:
    def build() -> nn.Module:
        return _Both(nn.Transformer(WIDTH, HEADS, 2, 2, HIDDEN, norm_first=norm_first, batch_first=True))

    return build


class _Both(nn.Module):
    """`src` and `tgt` (batch, tokens, width) to what the decoder makes of them."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """No masks."""
        result: Tensor = self.transformer(src, tgt)
        return result
