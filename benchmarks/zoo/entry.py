"""What the zoo knows of one architecture: how to build it small and random, what to feed it, what must be found in it.

No parameter keeps a value that hides a mistake: gains are not one, biases and LayerScale not zero, statistics of batch
norms not those of a fresh module, and what a term adds is as large as the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from parallelize.models.capture import capture
from parallelize.models.program import Program

Build = Callable[[], nn.Module]
Kinds = Mapping[str, int]

VOCABULARY, WIDTH, HIDDEN, HEADS, BLOCKS, TOKENS, PIXELS = 64, 32, 64, 4, 4, 9, 32
CONDITION = 16  # numbers that say what a diffusion or flow model is to draw, and when


@dataclass(frozen=True)
class Feed:
    """One example input.

    Attributes:
        shape: sizes of the example.
        dims: free dimensions by axis.
        tokens: the input holds numbers of tokens below this, as int64; 0 for floating-point numbers.
        mask: the input is an attention mask, as int64.
    """

    shape: tuple[int, ...]
    dims: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({0: "batch"}))
    tokens: int = 0
    mask: bool = False

    def example(self, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        """Random numbers; a mask that hides the last token of every sample but the first."""
        if self.mask:
            mask = torch.ones(self.shape, dtype=torch.int64)
            mask[1:, -1] = 0
            return mask
        if self.tokens:
            return torch.randint(3, self.tokens, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator, dtype=torch.float64).to(dtype)


STATE = {"x": Feed((3, TOKENS, WIDTH))}


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes:
        name: unique in the zoo.
        build: makes the module; its weights are drawn anew.
        feeds: the inputs by the name that `forward` gives them.
        stacks: for each stack in order, its terms by kind; None where that is only kept with the results.
        refused: for each add that belongs to no stack, in order, words of the sentence that says why.
        uncaptured: words of the sentence that says what is in the way of a capture; empty where it is captured.
        onnx: whether it is written as ONNX and run; others like it are, where it is not.
        slow: its checks take many seconds, or show nothing that others do not show.
    """

    name: str
    build: Build
    feeds: Mapping[str, Feed]
    stacks: Sequence[Kinds] | None = None
    refused: Sequence[str] = ()
    uncaptured: str = ""
    onnx: bool = True
    slow: bool = False

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The module in eval mode, its weights the same on every call."""
        torch.manual_seed(0)
        return draw_weights(self.build().to(dtype).eval())

    def inputs(self, dtype: torch.dtype = torch.float32, seed: int = 1) -> dict[str, Tensor]:
        """An example batch by name."""
        generator = torch.Generator().manual_seed(seed)
        return {name: feed.example(dtype, generator) for name, feed in self.feeds.items()}

    def capture(self, dtype: torch.dtype = torch.float32) -> Program:
        """The captured graph, with every dimension that `feeds` names left free."""
        dynamic = [feed.dims for feed in self.feeds.values()]
        return capture(self.model(dtype), (), self.inputs(dtype), dynamic=dynamic, origin=self.name)


def pretrained(name: str, **settings: Any) -> Build:
    """A model of transformers by the name of its class, with a configuration of the given settings and no weights."""

    def build() -> nn.Module:
        import transformers

        kind = getattr(transformers, name)
        module: nn.Module = kind(kind.config_class(**settings))
        return module

    return build


def draw_weights(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter and every statistic anew: matrices keep the size of what they read, gains are near one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and max(parameter.shape[1:]) > 1:
                parameter.copy_(normal(parameter) * parameter.shape[1:].numel() ** -0.5)
            else:
                shift = 0.0 if name.endswith("bias") else 1.0
                parameter.copy_(shift + 0.3 * normal(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * normal(buffer))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + normal(buffer).abs())
    return module


def text(*, mask: bool = True, batch: int = 3, free: bool = True) -> dict[str, Feed]:
    """Token numbers, batch and number of tokens free or only the batch, mostly with a mask."""
    dims = {0: "batch", 1: "tokens"} if free else {0: "batch"}
    feeds = {"input_ids": Feed((batch, TOKENS), dims, tokens=VOCABULARY)}
    return {**feeds, "attention_mask": Feed((batch, TOKENS), dims, mask=True)} if mask else feeds


def pixels(size: int = PIXELS, batch: int = 3) -> dict[str, Feed]:
    """Images of three channels, the batch free."""
    return {"pixel_values": Feed((batch, 3, size, size))}


def states(name: str, width: int = WIDTH, batch: int = 3) -> dict[str, Feed]:
    """(batch, tokens, width), batch and tokens free."""
    return {name: Feed((batch, TOKENS, width), {0: "batch", 1: "tokens"})}
