"""Encoders of text: transformers that read all tokens at once, pre-norm and post-norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from benchmarks.zoo.entry import BLOCKS, HEADS, HIDDEN, TOKENS, VOCABULARY, WIDTH, Entry, Feed, pretrained, text

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "intermediate_size": HIDDEN,
    "max_position_embeddings": 64,
}
TOKEN_NUMBERS: dict[str, Any] = {
    "bos_token_id": 0,
    "eos_token_id": 1,
    "cls_token_id": 0,
    "sep_token_id": 1,
    "pad_token_id": 2,
}
NO_HEADS: dict[str, Any] = {name: size for name, size in SIZES.items() if name != "num_attention_heads"}
FUNNEL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "n_head": HEADS,
    "d_head": 8,
    "d_inner": HIDDEN,
    "block_sizes": [2, 2],
    "num_decoder_layers": 1,
}
TERMS = ({"attention": BLOCKS, "mlp": BLOCKS},)
IRREGULAR = {"deberta", "squeezebert", "fnet", "funnel", "mobilebert"}


def entries() -> Iterator[Entry]:
    """All encoders of text."""
    for norm_first in (True, False):
        for batch_first in (True, False):
            yield _torch_encoder(norm_first=norm_first, batch_first=batch_first)
    yield Entry("bert-sdpa", lambda: _bert("sdpa"), text(), TERMS)
    yield Entry("bert-eager", lambda: _bert("eager"), text(), TERMS, slow=True)
    yield Entry("roberta", _roberta, text(), TERMS, slow=True)
    yield Entry("distilbert", _distilbert, text(), TERMS, slow=True)
    yield Entry("albert", _albert, text(), TERMS, slow=True)
    yield Entry("electra", _electra, text(), TERMS, slow=True)
    yield Entry("mpnet", _mpnet, text(), TERMS, slow=True)
    yield Entry("deberta-v2", _deberta, text(), TERMS, slow=True)
    yield Entry("t5-encoder", _t5, text(), TERMS, slow=True)
    yield Entry("clip-text", _clip, text(), TERMS, slow=True)
    yield from _more()


def _more() -> Iterator[Entry]:
    """Encoders whose blocks differ from BERT's in one thing each."""
    listed = {
        "xlm-roberta": pretrained("XLMRobertaModel", **SIZES),
        "roberta-pre-norm": pretrained("RobertaPreLayerNormModel", **SIZES),
        "data2vec-text": pretrained("Data2VecTextModel", **SIZES),
        "ernie": pretrained("ErnieModel", **SIZES),
        "megatron-bert": pretrained("MegatronBertModel", **SIZES),
        "rembert": pretrained("RemBertModel", **SIZES, input_embedding_size=16),
        "splinter": pretrained("SplinterModel", **SIZES),
        "roformer": pretrained("RoFormerModel", **SIZES, embedding_size=16),
        "deberta": pretrained("DebertaModel", **SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"]),
        "squeezebert": pretrained("SqueezeBertModel", **SIZES, embedding_size=WIDTH),
        "convbert": pretrained("ConvBertModel", **SIZES, embedding_size=WIDTH, conv_kernel_size=3),
        "mobilebert": pretrained("MobileBertModel", **SIZES, embedding_size=16, intra_bottleneck_size=16),
        "esm": pretrained("EsmModel", **SIZES, pad_token_id=1, position_embedding_type="rotary"),
        "modernbert": pretrained("ModernBertModel", **SIZES, **TOKEN_NUMBERS, local_attention=4),
        "nomic-bert": pretrained("NomicBertModel", **SIZES),
        "eurobert": pretrained("EuroBertModel", **SIZES, num_key_value_heads=2, pad_token_id=2),
        "layoutlm": pretrained("LayoutLMModel", **SIZES),
        "xlnet": pretrained(
            "XLNetModel", vocab_size=VOCABULARY, d_model=WIDTH, n_layer=BLOCKS, n_head=HEADS, d_inner=HIDDEN
        ),
        "fnet": pretrained("FNetModel", **NO_HEADS),
        "funnel": pretrained("FunnelModel", **FUNNEL),
        "big-bird": pretrained("BigBirdModel", **SIZES, attention_type="block_sparse", block_size=2),
    }
    for name, build in listed.items():
        feeds = text(mask=name != "fnet", free=False)
        yield Entry(name, build, feeds, None if name in IRREGULAR else TERMS, slow=True)
    longformer = pretrained("LongformerModel", **SIZES, attention_window=4)
    yield Entry("longformer", longformer, text(free=False), uncaptured="data-dependent", slow=True)


def _torch_encoder(*, norm_first: bool, batch_first: bool) -> Entry:
    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, norm_first=norm_first, batch_first=batch_first)
        return nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)

    shape = (3, TOKENS, WIDTH) if batch_first else (TOKENS, 3, WIDTH)
    dims = {0: "batch", 1: "tokens"} if batch_first else {0: "tokens", 1: "batch"}
    norm, order = "pre-norm" if norm_first else "post-norm", "batch-first" if batch_first else "tokens-first"
    return Entry(
        f"torch-encoder-{norm}-{order}", build, {"src": Feed(shape, dims)}, TERMS, slow=norm_first or batch_first
    )


def _bert(attention: str) -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**SIZES, attn_implementation=attention))


def _roberta() -> nn.Module:
    from transformers import RobertaConfig, RobertaModel

    return RobertaModel(RobertaConfig(**SIZES))


def _distilbert() -> nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    return DistilBertModel(
        DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=WIDTH,
            n_layers=BLOCKS,
            n_heads=HEADS,
            hidden_dim=HIDDEN,
            max_position_embeddings=64,
        )
    )


def _albert() -> nn.Module:
    """One set of weights that all layers use."""
    from transformers import AlbertConfig, AlbertModel

    return AlbertModel(AlbertConfig(**SIZES, embedding_size=16))


def _electra() -> nn.Module:
    from transformers import ElectraConfig, ElectraModel

    return ElectraModel(ElectraConfig(**SIZES, embedding_size=16))


def _mpnet() -> nn.Module:
    from transformers import MPNetConfig, MPNetModel

    return MPNetModel(MPNetConfig(**SIZES))


def _deberta() -> nn.Module:
    """Disentangled attention: positions relative to each other, in both directions."""
    from transformers import DebertaV2Config, DebertaV2Model

    return DebertaV2Model(
        DebertaV2Config(**SIZES, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"])
    )


def _t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=8,
            d_ff=HIDDEN,
            num_layers=BLOCKS,
            num_heads=HEADS,
            feed_forward_proj="gated-gelu",
        )
    )


def _clip() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**SIZES, bos_token_id=0, eos_token_id=1, pad_token_id=2))
