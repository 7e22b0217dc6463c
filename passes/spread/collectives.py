"""What the ranks of a level do together, forwards and backwards.

Every rank computes the state, and all that follows from it, in full; of a level's branches it computes its own.

    forwards      y = x + all-reduce(sum of the rank's own branches of x)
    backwards     dx = dy + all-reduce(what the rank's own branches give back)

So the sum hands its gradient on as it is, since all ranks have the same, and what the branches read collects the
gradients of all ranks: `read_by_branches` is the identity forwards and one all-reduce backwards, for all values at once
that the branches of a level read. Gradients are then those of one process, on every rank, for what it has.

A rank without a branch on a level takes part with zeros, backwards too. For that the sum hangs on what the branches
read, and always asks for a gradient, where gradients are recorded: so all ranks record the same collectives, and
autograd runs them in the reverse of the one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed._functional_collectives import wait_tensor as wait  # which gives the operators their shapes

ALL_REDUCE = torch.ops._c10d_functional.all_reduce.default
WAIT = torch.ops._c10d_functional.wait_tensor.default


def sum_over_ranks(values: Sequence[Tensor], group: str) -> list[Tensor]:
    """Each tensor summed over the ranks of a group, with one all-reduce for each dtype among them.

    Args:
        values: tensors of the same shapes on every rank.
        group: name of the process group.
    """
    together: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for number, value in enumerate(values):
        together.setdefault((value.dtype, value.device), []).append(number)
    found: dict[int, Tensor] = {}
    for numbers in together.values():
        flat = [values[number].reshape(-1) for number in numbers]
        summed = all_reduce(torch.cat(flat) if len(flat) > 1 else flat[0], group)
        for number, part in zip(numbers, torch.split(summed, [part.numel() for part in flat]), strict=True):
            found[number] = part.view(values[number].shape)
    return [found[number] for number in range(len(values))]


def all_reduce(value: Tensor, group: str) -> Tensor:
    """One tensor summed over the ranks of a group."""
    summed: Tensor = wait(ALL_REDUCE(value.contiguous(), "sum", group))  # type: ignore[no-untyped-call]
    return summed


def read_by_branches(values: Sequence[Tensor], group: str) -> tuple[Tensor, ...]:
    """What the branches of a level read: the same values, whose gradients are summed over the ranks.

    Args:
        values: floating-point tensors, the same on every rank.
        group: name of the process group.
    """
    results: tuple[Tensor, ...] = _Read.apply(group, *values)  # type: ignore[no-untyped-call]
    return results


def add_over_ranks(own: Tensor | None, like: Tensor, read: Tensor, group: str) -> Tensor:
    """The sum over the ranks of what the branches of a level add.

    Args:
        own: the sum of this rank's branches; None where it has none.
        like: a value of the sum's shape and dtype.
        read: one of the values that `read_by_branches` has given.
        group: name of the process group.
    """
    hook = torch.zeros((), requires_grad=torch.is_grad_enabled())
    result: Tensor = _Add.apply(own, like, read, hook, group)  # type: ignore[no-untyped-call]
    return result


class _Read(torch.autograd.Function):
    """The identity; backwards the sum over the ranks."""

    @staticmethod
    def forward(ctx: Any, group: str, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.group, ctx.wanted = group, ctx.needs_input_grad[1:]
        results = tuple(value.view_as(value) for value in values)
        ctx.mark_non_differentiable(*(r for r, wanted in zip(results, ctx.wanted, strict=True) if not wanted))
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [gradient for gradient, is_wanted in zip(gradients, ctx.wanted, strict=True) if is_wanted]
        summed = iter(sum_over_ranks(wanted, ctx.group))
        return None, *(next(summed) if is_wanted else None for is_wanted in ctx.wanted)


class _Add(torch.autograd.Function):
    """The sum over the ranks; backwards the identity."""

    @staticmethod
    def forward(ctx: Any, own: Tensor | None, like: Tensor, read: Tensor, hook: Tensor, group: str) -> Tensor:
        del read, hook
        ctx.has_own = own is not None
        return all_reduce(torch.zeros_like(like) if own is None else own, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient if ctx.has_own else None, None, None, None, None
