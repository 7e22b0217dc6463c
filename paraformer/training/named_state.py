"""The tensors of a training by the names that they have in the model of branches one by one.

A leaf of fused branches holds the same parameter of several; here each branch has its own, under the number of its
block. So the names do not depend on how branches run or on which process has them.

    model.blocks.3.up.weight    average.blocks.3.up.weight    best.blocks.3.up.weight
    optimizer.exp_avg.blocks.3.up.weight    optimizer.step.blocks.3.up.weight
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paraformer.branches import Branches
from paraformer.fused import FusedBranches, FusedGroups
from paraformer.network import ParaFormer
from paraformer.training.resuming import Kept
from paraformer.training.spread_branches import SpreadBranches

_BLOCKS = "blocks."


@dataclass(frozen=True)
class Place:
    """Where a tensor of a model belongs.

    Attributes:
        names: one for each branch that it holds.
        is_stacked: whether it has a leading axis of branches.
    """

    names: tuple[str, ...]
    is_stacked: bool

    def parts(self, value: Tensor) -> dict[str, Tensor]:
        """The tensor of each branch; what has no axes, such as a count of steps, is the same for all."""
        if self.is_stacked and value.ndim:
            return dict(zip(self.names, value.unbind(0), strict=True))
        return dict.fromkeys(self.names, value)

    def joined(self, named: Mapping[str, Tensor], prefix: str) -> Tensor:
        """What `parts` were made of."""
        values = [named[prefix + name] for name in self.names]
        return torch.stack(values) if self.is_stacked and values[0].ndim else values[0]


def places(model: ParaFormer) -> dict[str, Place]:
    """Where each tensor of the state dict of a model belongs, however its branches run."""
    found = {name: Place((name,), False) for name in model.state_dict() if not name.startswith(_BLOCKS)}
    for name, place in _of_blocks(model.blocks, 0, model.config.branch_depth):
        found[_BLOCKS + name] = place
    return found


def _of_blocks(blocks: nn.Module, first: int, depth: int) -> Iterator[tuple[str, Place]]:
    """Of branches of so many blocks, of which the first has that number."""
    if isinstance(blocks, SpreadBranches):
        yield from _under("own", _of_blocks(blocks.own, blocks.first, depth))
    elif isinstance(blocks, FusedGroups):
        for number, group in enumerate(blocks.groups):
            assert isinstance(group, FusedBranches)
            yield from _under(f"groups.{number}", _of_blocks(group, first, depth))
            first += group.count
    elif isinstance(blocks, FusedBranches):
        for name in blocks.state_dict():
            _, block, rest = name.split(".", 2)
            numbers = [branch * depth + int(block) for branch in range(first, first + blocks.count)]
            yield name, Place(tuple(f"{_BLOCKS}{number}.{rest}" for number in numbers), True)
    else:
        assert isinstance(blocks, Branches)
        for name in blocks.state_dict():
            block, rest = name.split(".", 1)
            yield name, Place((f"{_BLOCKS}{first * depth + int(block)}.{rest}",), False)


def _under(room: str, inner: Iterator[tuple[str, Place]]) -> Iterator[tuple[str, Place]]:
    return ((f"{room}.{name}", place) for name, place in inner)


def named(tensors: Mapping[str, Tensor], where: Mapping[str, Place], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a state dict by the names of their branches."""
    parts = [where[name].parts(value) for name, value in tensors.items()]
    return {prefix + name: value for part in parts for name, value in part.items()}


class NamedState:
    """The tensors of a training, by their names.

    Args:
        model: that is trained.
        optimizer: of its parameters.
        average: of its weights, with the same branches; None where there is none.
    """

    def __init__(self, model: ParaFormer, optimizer: torch.optim.Optimizer, average: ParaFormer | None) -> None:
        self.models = {"model.": model} | ({} if average is None else {"average.": average})
        self.optimizer, self.places = optimizer, places(model)
        by_parameter = {parameter: self.places[name] for name, parameter in model.named_parameters()}
        self.trained = [(p, by_parameter[p]) for group in optimizer.param_groups for p in group["params"]]

    def tensors(self, best: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """All that this process has, with the best weights so far, a state dict of the model."""
        found = {} if best is None else named(best, self.places, "best.")
        for prefix, model in self.models.items():
            found |= named(model.state_dict(), self.places, prefix)
        for parameter, place in self.trained:
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                found |= {f"optimizer.{slot}.{name}": part for name, part in place.parts(value).items()}
        return found

    def load(self, kept: Kept) -> dict[str, Tensor] | None:
        """Put in what this process has of all that was kept; returns the best weights so far.

        Raises:
            CheckpointError: a tensor is missing.
        """
        there = kept.names()
        has_best = any(name.startswith("best.") for name in there)
        wanted = [*self.models, *(["best."] if has_best else [])]
        trained = {name for _, place in self.trained for name in place.names}
        read = kept.read(
            [
                *(prefix + name for prefix in wanted for place in self.places.values() for name in place.names),
                *(name for name in there if name.startswith("optimizer.") and name.split(".", 2)[2] in trained),
            ]
        )
        for prefix, model in self.models.items():
            model.load_state_dict(self._joined(read, prefix))
        self._load_optimizer(read)
        if not has_best:
            return None
        device = next(self.models["model."].parameters()).device
        return {name: value.to(device) for name, value in self._joined(read, "best.").items()}

    def _joined(self, read: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return {name: place.joined(read, prefix) for name, place in self.places.items()}

    def _load_optimizer(self, read: Mapping[str, Tensor]) -> None:
        """A parameter that had no gradient yet has no state."""
        slots = sorted({name.split(".", 2)[1] for name in read if name.startswith("optimizer.")})
        states = {}
        for number, (_, place) in enumerate(self.trained):
            prefixes = {slot: f"optimizer.{slot}." for slot in slots if f"optimizer.{slot}.{place.names[0]}" in read}
            if prefixes:
                states[number] = {slot: place.joined(read, prefix) for slot, prefix in prefixes.items()}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
