"""A moving average of the weights, which is judged and kept in their place.

    average <- d average + (1 - d) weights        d = min(decay, (1 + n) / (10 + n)) after n averages

The decay starts small, so that the average of a short run does not remember its random start.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """The average of a model's weights, at first these themselves; `update_parameters` goes on."""

    def averaged(average: Tensor, weight: Tensor, count: Tensor | int) -> Tensor:
        done = int(count)
        return average.lerp(weight, 1 - min(decay, (1 + done) / (10 + done)))

    return AveragedModel(model, avg_fn=averaged)
