"""Settings of a convolution are those that it runs with, however many of them the call names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph import operators as ops
from passes.graph.convolutions import convolution_settings
from tests.passes.drawn import calls, drawn
from tests.passes.models import normal

LINE, IMAGE = normal(4, 2, 3), normal(4, 2, 3, 3)


@pytest.mark.parametrize(
    ("forward", "x", "settings"),
    [
        pytest.param(lambda x: F.conv1d(x, LINE), normal(1, 2, 9), ([1], [0], [1], 1), id="defaults"),
        pytest.param(
            lambda x: F.conv2d(x, IMAGE, None, 2), normal(1, 2, 9, 9), ([2, 2], [0, 0], [1, 1], 1), id="stride"
        ),
        pytest.param(
            lambda x: F.conv2d(x, IMAGE[:, :1], padding=1, dilation=(1, 2), groups=2),
            normal(1, 2, 9, 9),
            ([1, 1], [1, 1], [1, 2], 2),
            id="all",
        ),
        pytest.param(lambda x: F.conv1d(x, LINE, padding="same"), normal(1, 2, 9), ([1], "same", [1], 1), id="same"),
        pytest.param(
            lambda x: torch.ops.aten.conv1d.padding(x, LINE),
            normal(1, 2, 9),
            ([1], "valid", [1], 1),
            id="valid",
        ),
    ],
)
def test_settings_with_their_defaults(
    forward: Callable[[Tensor], Tensor], x: Tensor, settings: tuple[Any, ...]
) -> None:
    graph = drawn(forward, x)
    (node,) = calls(graph, *ops.PLAIN_CONVOLUTIONS)
    found = convolution_settings(node)
    assert tuple(list(part) if isinstance(part, (list, tuple)) else part for part in found) == settings
    weight = IMAGE[:, : 2 // found[3]] if x.ndim == 4 else LINE
    run = F.conv2d if x.ndim == 4 else F.conv1d
    assert torch.equal(run(x, weight, None, *found), graph(x))
