"""A rewrite of two blocks and its healing, and what the tests of healing ask of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parallelize.healing.heal import Healed, heal
from parallelize.healing.options import HealOptions
from parallelize.refitting.records import Refitted
from tests.parallelize.small_models import images, pairs, vision

FIT, HELD_OUT, JUDGE = (images(count, seed) for seed, count in enumerate((128, 48, 64)))
PLAN = pairs("affine", 2)
FAST = HealOptions(steps=60, batch_size=16, evaluate_every=10, learning_rate=3e-3)


def healing_of(refitted: Refitted, options: HealOptions, **more: Any) -> Healed:
    return heal(refitted, vision(2).module, PLAN, FIT, HELD_OUT, options, **more)


def equal(first: Healed, second: Healed) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def tensors(result: Healed) -> list[Tensor]:
    return [tensor.detach() for tensor in result.module.state_dict().values()]
