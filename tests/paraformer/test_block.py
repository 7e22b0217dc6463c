"""A block: attention by its formula, a mask that hides, and two terms that are added."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.block import Attention, Block


def test_attention_is_softmax_of_queries_and_keys_head_by_head() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    query, key, value = attention.qkv(x).chunk(3, -1)
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        weights = torch.softmax(query[..., part] @ key[..., part].transpose(1, 2) / 4**0.5, -1)
        heads.append(weights @ value[..., part])
    torch.testing.assert_close(attention(x), attention.out(torch.cat(heads, -1)), rtol=0, atol=1e-12)


def test_a_block_adds_attention_then_mlp_each_of_its_own_norm() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, 12).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    middle = x + block.attention(F.layer_norm(x, (8,), block.norm1.weight, block.norm1.bias))
    expected = middle + block.down(F.gelu(block.up(block.norm2(middle))))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_what_a_mask_hides_does_not_matter_and_what_it_shows_does() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    mask = torch.tensor([True, True, True, False, False]).expand(2, 1, 1, 5)
    torch.testing.assert_close(attention(x, mask)[:, :3], attention(x[:, :3]), rtol=0, atol=1e-12)
    changed = x.clone()
    changed[:, 3:] += 1
    torch.testing.assert_close(attention(changed, mask)[:, :3], attention(x, mask)[:, :3], rtol=0, atol=1e-12)
    assert not torch.allclose(attention(changed)[:, :3], attention(x)[:, :3])


def test_a_causal_block_reads_no_later_token() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, 12, causal=True).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    for tokens in range(1, 5):
        torch.testing.assert_close(block(x)[:, :tokens], block(x[:, :tokens]), rtol=0, atol=1e-12)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(block(x, mask), block(x), rtol=0, atol=1e-12)
