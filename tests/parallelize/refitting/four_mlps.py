"""Four MLPs behind norms on vectors, samples for them, and what the tests of refits ask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from parallelize.data import Samples
from parallelize.metrics import predict, score
from passes.graph.operators import LINEAR
from tests.parallelize.small_models import images, vectors

WIDTH, HIDDEN = 6, 12
FIT, HELD_OUT, JUDGE = (vectors(count, WIDTH, seed) for seed, count in enumerate((300, 80, 100)))
IMAGES = tuple(images(count, seed) for seed, count in enumerate((200, 80, 80)))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def distance(module: fx.GraphModule, teacher: fx.GraphModule, samples: Samples) -> float:
    return score(predict(module, samples), predict(teacher, samples)).relative_l2


def linears(module: fx.GraphModule) -> int:
    return len(module.graph.find_nodes(op="call_function", target=LINEAR))


def outputs(module: fx.GraphModule, samples: Samples) -> Tensor:
    (outputs,) = predict(module, samples)
    return outputs
