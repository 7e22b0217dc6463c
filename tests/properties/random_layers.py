"""Random layers for Hypothesis: norms, linears and activations, each in the ways in which models spell them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from tests.passes.models import written_out_gelu

NormKind = Literal["layer", "rms", "written rms", "written rms with 1 + gain", "none"]
LinearStyle = Literal["linear", "addmm", "transposed weight", "weight by columns"]

EPSILONS = (1e-5, 1e-6, 1e-3)
NORM_KINDS: tuple[NormKind, ...] = ("layer", "rms", "written rms", "written rms with 1 + gain", "none")
LINEAR_STYLES: tuple[LinearStyle, ...] = ("linear", "addmm", "transposed weight", "weight by columns")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu written out": written_out_gelu,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "squared relu": lambda x: F.relu(x).pow(2),
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "leaky relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": F.elu,
    "mish": F.mish,
    "softplus": F.softplus,
}


@dataclass(frozen=True)
class NormSpec:
    """A norm over the last dimension; `affine` gives it a gain, and a LayerNorm a shift if `shift` is set too."""

    kind: NormKind
    eps: float = 1e-5
    affine: bool = True
    shift: bool = True

    def build(self, width: int) -> nn.Module:
        """The norm of states (.., width)."""
        if self.kind == "layer":
            return nn.LayerNorm(width, self.eps, elementwise_affine=self.affine, bias=self.shift)
        if self.kind == "rms":
            return nn.RMSNorm(width, self.eps, elementwise_affine=self.affine)
        if self.kind == "none":
            return nn.Identity()
        return WrittenRmsNorm(width, self)


class WrittenRmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), times gain or 1 + gain, in single operators as Llama and Gemma write it."""

    def __init__(self, width: int, spec: NormSpec) -> None:
        super().__init__()
        self.eps, self.one_more = spec.eps, spec.kind == "written rms with 1 + gain"
        self.gain = nn.Parameter(torch.empty(width)) if spec.affine else None

    def forward(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.gain is None:
            return normed
        return normed * (1.0 + self.gain) if self.one_more else self.gain * normed


class WrittenLinear(nn.Module):
    """A linear written as a matrix product: addmm as in GPT-2, or @ with the weight by columns or transposed."""

    def __init__(self, inputs: int, outputs: int, style: LinearStyle, *, bias: bool) -> None:
        super().__init__()
        self.style, self.outputs = style, outputs
        shape = (outputs, inputs) if style == "transposed weight" else (inputs, outputs)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "addmm":
            return self._flat(x.view(-1, x.shape[-1])).view(*x.shape[:-1], self.outputs)
        y = x @ (self.weight.t() if self.style == "transposed weight" else self.weight)
        return y if self.bias is None else y + self.bias

    def _flat(self, rows: Tensor) -> Tensor:
        return torch.mm(rows, self.weight) if self.bias is None else torch.addmm(self.bias, rows, self.weight)


@dataclass(frozen=True)
class LinearSpec:
    """How all linears of a term are written."""

    style: LinearStyle
    bias: bool

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """A map of (.., inputs) to (.., outputs)."""
        if self.style == "linear":
            return nn.Linear(inputs, outputs, bias=self.bias)
        return WrittenLinear(inputs, outputs, self.style, bias=self.bias)


def norm_specs() -> st.SearchStrategy[NormSpec]:
    """Any norm, most often a LayerNorm with gain and shift."""
    kinds = st.one_of(st.just("layer"), st.sampled_from(NORM_KINDS))
    mostly = st.sampled_from((True, True, True, False))
    return st.builds(NormSpec, kinds, st.sampled_from(EPSILONS), mostly, mostly)


def linear_specs() -> st.SearchStrategy[LinearSpec]:
    """Half of them nn.Linear."""
    styles = st.one_of(st.just("linear"), st.sampled_from(LINEAR_STYLES))
    return st.builds(LinearSpec, styles, st.booleans())


def activations() -> st.SearchStrategy[str]:
    """A key of ACTIVATIONS."""
    return st.sampled_from(sorted(ACTIVATIONS))
