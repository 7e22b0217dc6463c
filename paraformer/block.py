"""One pre-norm transformer block: two terms, each behind its own LayerNorm and added to the state.

    x <- x + out(attend(qkv(norm1(x))))
    x <- x + down(gelu(up(norm2(x))))

All branches of a Para-Former are runs of such blocks.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)


class Attention(nn.Module):
    """Multi-head self-attention on (batch, tokens, width); queries, keys and values in one projection.

    A mask is boolean, says what is seen, broadcasts to (batch, heads, tokens, tokens), and says all there is to say:
    only without one does `causal` hide later tokens.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=self.causal and mask is None)
        merged: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return merged


class Block(nn.Module):
    """One transformer block: two residual terms, attention then MLP, each behind its own LayerNorm."""

    def __init__(self, width: int, heads: int, hidden: int, *, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y
