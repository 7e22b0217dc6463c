"""A Para-Former that reads tokens: it classifies sequences, or says at each token what comes next.

What is not to be read is told by `attention_mask`, 1 for a token and 0 for padding, on whichever side. A token that
says what comes next sees itself and the tokens before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paraformer.config import TokenConfig
from paraformer.network import ParaFormer


class TokenParaFormer(ParaFormer):
    """(batch, tokens) of whole numbers -> (batch, classes) logits, or (batch, tokens, vocabulary) of what comes next.

    Tokens and positions are embedded and added; the head reads the mean of the tokens that are no padding, or a learned
    token before them, or each token.
    """

    config: TokenConfig

    def __init__(self, config: TokenConfig) -> None:
        super().__init__(config)
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Parameter(torch.empty(1, config.length, config.width))
        if config.has_cls:
            self.cls = nn.Parameter(torch.empty(1, 1, config.width))
            nn.init.trunc_normal_(self.cls, std=0.02)
        self.add_blocks(config.vocabulary if config.causal else config.classes, causal=config.causal)
        nn.init.trunc_normal_(self.token.weight, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        self.reset_blocks()

    def embed(self, input_ids: Tensor) -> Tensor:
        """The state x_0 that the blocks read: (batch, tokens, width), the learned token in front where there is one."""
        embedded: Tensor = self.token(input_ids) + self.position[:, : input_ids.shape[1]]
        if self.config.has_cls:
            embedded = torch.cat([self.cls.expand(embedded.shape[0], -1, -1), embedded], 1)
        return embedded

    def seen(self, attention_mask: Tensor) -> Tensor:
        """What each token sees: boolean, (batch, 1, 1 or tokens, tokens); causal padding sees itself, to be finite."""
        real = attention_mask != 0
        if self.config.has_cls:
            real = torch.cat([real.new_ones(real.shape[0], 1), real], 1)
        if not self.config.causal:
            return real[:, None, None]
        tokens = real.shape[1]
        place = torch.arange(tokens, device=real.device)
        before, itself = place[:, None] > place, place[:, None] == place
        return ((before & real[:, None]) | itself)[:, None]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.answer(self.blocks(*self.start(input_ids, attention_mask)), attention_mask)

    def answer(self, state: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What the head says of the last state (batch, tokens, width)."""
        if self.config.causal:
            read = self.norm(state)
        elif attention_mask is None or self.config.has_cls:
            read = self.pooled(state)
        else:
            real = (attention_mask != 0).to(state.dtype).unsqueeze(2)
            read = (self.norm(state) * real).sum(1) / real.sum(1).clamp(min=1)
        logits: Tensor = self.head(read)
        return logits
