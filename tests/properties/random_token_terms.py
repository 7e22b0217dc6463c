"""Random terms on a token state (batch, TOKENS, width): attention, MLP, and both beside each other in one term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from tests.properties.random_layers import ACTIVATIONS, LinearSpec, activations, linear_specs
from tests.properties.random_operators import Einsum, Operator, einsum_of, is_chosen, operated, operator_of, products

TOKENS = 4

Layout = Literal["separate", "unbind", "select", "chunk", "split", "heads outside"]
Repeat = Literal["flag", "expand", "interleave"]
PositionBias = Literal["none", "own", "shared"]
MlpKind = Literal["plain", "gated", "merged gate", "three linears"]


@dataclass(frozen=True)
class Sides:
    """What terms read beside the state.

    Attributes:
        mask: added to scores, (TOKENS, TOKENS), or what may be read, (batch, 1, 1, TOKENS).
        condition: (batch, 1, width), scales what an MLP reads.
        rotary: for each size of a head, cosines and sines (TOKENS, size).
        bias: for each number of heads, (1, heads, TOKENS, TOKENS).
    """

    mask: Tensor | None = None
    condition: Tensor | None = None
    rotary: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    bias: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class AttentionSpec:
    """An attention: `kv_heads` divides `heads`, and only separate and split layouts may have fewer of them.

    Attributes:
        written: matmul, softmax, matmul in place of scaled_dot_product_attention; `einsum` spells the first of them.
        causal: only without masks and biases.
        repeat: how key and value heads are repeated.
    """

    heads: int
    kv_heads: int
    head: int
    layout: Layout
    written: bool
    causal: bool
    masked: bool
    rotary: bool
    bias: PositionBias
    repeat: Repeat
    linear: LinearSpec
    einsum: Einsum = "none"

    def build(self, width: int) -> nn.Module:
        """The module on (batch, TOKENS, width) and `Sides`."""
        return RandomAttention(self, width)

    def resized(self) -> AttentionSpec:
        """The same with larger heads."""
        return replace(self, head=self.head + 2)


@dataclass(frozen=True)
class MlpSpec:
    """An MLP; `operator` acts on its hidden values.

    Attributes:
        conditioned: its input is multiplied by 1 + a side input.
        pieces: shift, scale and gate are cut from one linear of that side input instead.
    """

    kind: MlpKind
    hidden: int
    activation: str
    conditioned: bool
    linear: LinearSpec
    operator: Operator = "none"
    pieces: bool = False

    def build(self, width: int) -> nn.Module:
        """The module on (batch, TOKENS, width) and `Sides`."""
        return RandomMlp(self, width)

    def resized(self) -> MlpSpec:
        """The same with more hidden features."""
        return replace(self, hidden=self.hidden + 2)


@dataclass(frozen=True)
class ParallelSpec:
    """Attention and MLP on one input, added up before they are added to the state, as in GPT-J."""

    attention: AttentionSpec
    mlp: MlpSpec

    def build(self, width: int) -> nn.Module:
        """The module on (batch, TOKENS, width) and `Sides`."""
        return Parallel(self, width)

    def resized(self) -> ParallelSpec:
        """The same with larger heads and more hidden features."""
        return ParallelSpec(self.attention.resized(), self.mlp.resized())


TokenCore = AttentionSpec | MlpSpec | ParallelSpec


class RandomAttention(nn.Module):
    """project, rotate, repeat, attend, merge heads, project."""

    def __init__(self, spec: AttentionSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        inner, narrow = spec.heads * spec.head, spec.kv_heads * spec.head
        if spec.layout == "separate":
            self.query, self.key, self.value = (spec.linear.build(width, size) for size in (inner, narrow, narrow))
        else:
            self.qkv = spec.linear.build(width, inner + 2 * narrow)
        self.out = spec.linear.build(inner, width)
        self.dropout = nn.Dropout(0.1)
        if spec.bias == "own":
            self.table = nn.Parameter(torch.empty(2 * TOKENS - 1, spec.heads))
            self.register_buffer("index", relative_index())

    def forward(self, x: Tensor, sides: Sides) -> Tensor:
        query, key, value = self._project(x)
        if self.spec.rotary:
            query, key = (rotated(part, *sides.rotary[self.spec.head]) for part in (query, key))
        mixed = self._written(query, key, value, sides) if self.spec.written else self._fused(query, key, value, sides)
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(x.shape[0], TOKENS, self.spec.heads * self.spec.head))
        return y

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        spec, shape = self.spec, (x.shape[0], TOKENS)
        if spec.layout == "separate":
            return [self._split_heads(layer(x)) for layer in (self.query, self.key, self.value)]
        qkv = self.qkv(x)
        if spec.layout == "unbind":
            return qkv.reshape(*shape, 3, spec.heads, spec.head).permute(2, 0, 3, 1, 4).unbind(0)
        if spec.layout == "select":
            parts = qkv.view(*shape, 3, spec.heads, spec.head)
            return [parts[:, :, place].transpose(1, 2) for place in range(3)]
        if spec.layout == "heads outside":
            return qkv.view(*shape, spec.heads, 3 * spec.head).transpose(1, 2).chunk(3, -1)
        if spec.layout == "chunk":
            return [self._split_heads(part) for part in qkv.chunk(3, dim=-1)]
        sizes = [heads * spec.head for heads in (spec.heads, spec.kv_heads, spec.kv_heads)]
        return [self._split_heads(part) for part in qkv.split(sizes, dim=-1)]

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], TOKENS, -1, self.spec.head).transpose(1, 2)

    def _bias(self, sides: Sides) -> Tensor | None:
        if self.spec.bias == "none":
            return None
        return sides.bias[self.spec.heads] if self.spec.bias == "shared" else relative_bias(self.table, self.index)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, sides: Sides) -> Tensor:
        mask, bias = sides.mask if self.spec.masked else None, self._bias(sides)
        if mask is not None and bias is not None:
            mask = bias.masked_fill(~mask, -1e4) if mask.dtype == torch.bool else bias + mask
        elif mask is None:
            mask = bias
        flag = self.spec.kv_heads != self.spec.heads and self.spec.repeat == "flag"
        if not flag:
            key, value = self._repeated(key), self._repeated(value)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=self.spec.causal, enable_gqa=flag
        )

    def _written(self, query: Tensor, key: Tensor, value: Tensor, sides: Sides) -> Tensor:
        key, value = self._repeated(key), self._repeated(value)
        scores = products(self.spec.einsum, query, key) / math.sqrt(self.spec.head)
        bias, mask = self._bias(sides), sides.mask
        if bias is not None:
            scores = scores + bias
        if self.spec.causal:
            scores = scores.masked_fill(torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1), -1e4)
        if self.spec.masked and mask is not None:
            scores = scores.masked_fill(~mask, -1e4) if mask.dtype == torch.bool else scores + mask
        mixed: Tensor = torch.matmul(self.dropout(torch.softmax(scores, -1)), value)
        return mixed

    def _repeated(self, x: Tensor) -> Tensor:
        times = self.spec.heads // self.spec.kv_heads
        if times == 1:
            return x
        if self.spec.repeat == "interleave":
            return x.repeat_interleave(times, 1)
        shape = (x.shape[0], self.spec.kv_heads, times, TOKENS, self.spec.head)
        return x[:, :, None].expand(shape).reshape(x.shape[0], self.spec.heads, TOKENS, self.spec.head)


class RandomMlp(nn.Module):
    """up, activation (and gate), down."""

    def __init__(self, spec: MlpSpec, width: int) -> None:
        super().__init__()
        self.spec, self.activation = spec, ACTIVATIONS[spec.activation]
        self.up = spec.linear.build(width, spec.hidden * (2 if spec.kind == "merged gate" else 1))
        if spec.kind == "gated":
            self.gate = spec.linear.build(width, spec.hidden)
        if spec.kind == "three linears":
            self.middle = spec.linear.build(spec.hidden, spec.hidden)
        self.down = spec.linear.build(spec.hidden, width)
        self.dropout = nn.Dropout(0.1)
        if spec.pieces:
            self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, sides: Sides) -> Tensor:
        if self.spec.pieces and sides.condition is not None:
            shift, scale, gate = self.modulation(sides.condition).chunk(3, dim=-1)
            return self._mapped(x * (1.0 + scale) + shift) * gate
        if self.spec.conditioned and sides.condition is not None:
            x = x * (1.0 + sides.condition)
        return self._mapped(x)

    def _mapped(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.dropout(operated(self.spec.operator, self._hidden(x))))
        return y

    def _hidden(self, x: Tensor) -> Tensor:
        if self.spec.kind == "gated":
            gated: Tensor = self.activation(self.gate(x)) * self.up(x)
            return gated
        if self.spec.kind == "merged gate":
            gate, value = self.up(x).chunk(2, dim=-1)
            return self.activation(gate) * value
        hidden = self.activation(self.up(x))
        return self.activation(self.middle(hidden)) if self.spec.kind == "three linears" else hidden


class Parallel(nn.Module):
    """attention(x) + mlp(x)."""

    def __init__(self, spec: ParallelSpec, width: int) -> None:
        super().__init__()
        self.attention, self.mlp = spec.attention.build(width), spec.mlp.build(width)

    def forward(self, x: Tensor, sides: Sides) -> Tensor:
        y: Tensor = self.attention(x, sides) + self.mlp(x, sides)
        return y


def rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding of heads (batch, heads, TOKENS, size)."""
    left, right = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-right, left), dim=-1) * sines


def rotary_tables(size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (TOKENS, size)."""
    angles = torch.arange(TOKENS)[:, None] * 10.0 ** -torch.arange(size // 2)
    both = torch.cat((angles, angles), -1)
    return both.cos(), both.sin()


def relative_index() -> Tensor:
    """Distance of query and key, from 0, flat."""
    places = torch.arange(TOKENS)
    return (places[:, None] - places + TOKENS - 1).flatten()


def relative_bias(table: Tensor, index: Tensor) -> Tensor:
    """The bias (1, heads, TOKENS, TOKENS) out of a table (distances, heads), as Swin and T5 look it up."""
    return table[index].view(TOKENS, TOKENS, -1).permute(2, 0, 1).unsqueeze(0)


@st.composite
def attention_specs(draw: st.DrawFn, *, masks: bool) -> AttentionSpec:
    """Any attention that can run; `masks` says whether the network has one."""
    heads = draw(st.sampled_from((1, 2, 4)))
    layout = draw(st.sampled_from(("separate", "unbind", "select", "chunk", "split", "heads outside")))
    fewer = [kv for kv in (1, 2, 4) if heads % kv == 0 and layout in ("separate", "split")]
    masked = masks and draw(st.booleans())
    bias: PositionBias = draw(st.sampled_from(("none", "none", "own", "shared")))
    return AttentionSpec(
        heads=heads,
        kv_heads=draw(st.sampled_from([heads, *fewer])),
        head=draw(st.sampled_from((2, 4))),
        layout=layout,
        written=draw(st.booleans()),
        causal=draw(st.booleans()) and not masked and bias == "none",
        masked=masked,
        rotary=draw(st.booleans()),
        bias=bias,
        repeat=draw(st.sampled_from(("flag", "expand", "interleave"))),
        linear=draw(linear_specs()),
    )


def mlp_specs(*, conditions: bool) -> st.SearchStrategy[MlpSpec]:
    """Any MLP; `conditions` says whether the network has a condition."""
    kinds = st.sampled_from(("plain", "plain", "gated", "merged gate", "three linears"))
    conditioned = st.booleans() if conditions else st.just(False)
    return st.builds(MlpSpec, kinds, st.sampled_from((4, 6)), activations(), conditioned, linear_specs())


def with_operators(core: TokenCore, drawn: object) -> TokenCore:
    """The core with an operator between its layers, and with its products in another spelling."""
    if isinstance(core, ParallelSpec):
        attention, mlp = (with_operators(part, drawn) for part in (core.attention, core.mlp))
        return replace(core, attention=attention, mlp=mlp)
    if isinstance(core, AttentionSpec):
        return replace(core, einsum=einsum_of(drawn))
    return replace(core, operator=operator_of(drawn), pieces=core.conditioned and is_chosen(drawn, 0.5))
