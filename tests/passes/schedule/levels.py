"""Terms side by side on one level, and what the tests of out-projections ask about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.schedule.apply_plan import rewrite
from passes.schedule.out_projection import OutProjection, change_out_projection, level_features
from passes.schedule.sites import LevelSite
from tests.passes.models import WIDTH, Levels, Residual, graph_of, normal, plan_of, randomised, tokens


def rewritten_levels(graph: fx.GraphModule, terms: int, levels: Levels) -> tuple[fx.GraphModule, tuple[LevelSite, ...]]:
    module, (site,) = rewrite(graph, plan_of(terms, levels))
    return module, site.levels


def beside(terms: Sequence[nn.Module], example: Tensor | None = None) -> tuple[Residual, fx.GraphModule, LevelSite]:
    """Terms side by side on one level."""
    model = Residual(terms)
    randomised(model)
    graph = graph_of(model, tokens() if example is None else example)
    module, levels = rewritten_levels(graph, len(terms), [[[number] for number in range(len(terms))]])
    return model, module, levels[0]


def weights_of(outs: Sequence[OutProjection]) -> list[str]:
    return [str(out.node.args[1].target) for out in outs]  # type: ignore[union-attr]


def reasons_of(site: LevelSite) -> list[str]:
    return [skip.reason for skip in level_features(site).skipped]


def change_all(module: fx.GraphModule, site: LevelSite, width: int = WIDTH) -> list[Tensor]:
    """Change all out-projections of a level; returns the changes."""
    outs = level_features(site).outs
    changes = [normal(width, out.width, seed=7 + number) for number, out in enumerate(outs)]
    for out, change in zip(outs, changes, strict=True):
        change_out_projection(module, out, change)
    return changes


class OneConvolution(nn.Module):
    """relu and a convolution, a gain for each channel behind it or not."""

    def __init__(self, *, gain: bool = False, rank: int = 2, **settings: Any) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.convolution = convolution(WIDTH, WIDTH, **settings)
        self.gain = nn.Parameter(torch.empty(WIDTH, *[1] * rank)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolution(F.relu(x))
        return y if self.gain is None else self.gain * y
