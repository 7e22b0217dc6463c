"""The shares of one of several processes, on torch.distributed: a mesh of ("data", "branch") ranks.

    data      DistributedDataParallel averages gradients over a column, in buckets, while the backward pass still runs
    branch    `SpreadBranches`: one all-reduce of a state forward, one of its gradient backward, within a row

Neighbouring ranks share branches, because they say more to each other than those that share samples. Tensors on GPUs go
by NCCL where each rank has a GPU of its own, all others by gloo. Nothing here waits for less than a day: that another
rank is gone is for the caller to notice.
"""

from __future__ import annotations

import secrets
import socket
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel

from paraformer.branches import Branches
from paraformer.network import ParaFormer
from paraformer.training.objectives import Batch, Loss
from paraformer.training.resuming import keep_shared_state
from paraformer.training.row import Row
from paraformer.training.shares import Form, Learner, Shares, T, check_ranks
from paraformer.training.spread_branches import SpreadBranches

PATIENCE = timedelta(days=1)


class JoinedShares(Shares):
    """The shares of this process; torch.distributed has been initialised, and all processes make theirs.

    Args:
        device: where this process trains.
        branch_ranks: how many processes share the branches; the columns share the samples.

    Raises:
        TrainingError: the number of processes is no multiple of that.
    """

    def __init__(self, device: torch.device, branch_ranks: int = 1) -> None:
        self.rank, size = distributed.get_rank(), distributed.get_world_size()
        check_ranks(size, branch_ranks)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.device, self.branch_ranks, self.data_ranks = device, branch_ranks, size // branch_ranks
        self.control = distributed.new_group(timeout=PATIENCE, backend="gloo")
        grid = torch.arange(size).view(self.data_ranks, branch_ranks)
        backend = _backend(device, size, self.control)
        groups = [_group_among(lines.tolist(), backend) for lines in (grid.T, grid)]
        self.mesh = DeviceMesh.from_group(groups, device.type, grid, mesh_dim_names=("data", "branch"))
        self.data, self.row = groups
        self.branch = self.mesh.get_local_rank("branch")

    def __deepcopy__(self, memo: object) -> JoinedShares:
        return self

    def part(self, count: int) -> slice:
        """See `Shares`: neighbouring samples, as many as even shares allow."""
        place = self.mesh.get_local_rank("data")
        return slice(*(count * end // self.data_ranks for end in (place, place + 1)))

    def spread(self, model: ParaFormer, kept: int, form: Form) -> ParaFormer:
        """See `Shares`: a row has the branches in its order, as `torch.chunk` shares them."""
        if self.branch_ranks == 1:
            return super().spread(model, kept, form)
        assert isinstance(model.blocks, Branches)
        count, merge, runs = model.blocks.count, model.blocks.merge, model.blocks.runs()
        each = -(-count // self.branch_ranks)
        first = self.branch * each
        own = runs[first : first + each]
        branches = Branches([block for run in own for block in run], len(own), merge)
        formed = form(branches, min(max(kept - first, 0), len(own)))
        return model.with_blocks(SpreadBranches(formed, first, count, merge, Row(self.mesh["branch"])))

    def learner(self, model: ParaFormer, *, leaves_out: bool) -> Learner:
        """See `Shares`."""
        if self.data_ranks == 1:
            return super().learner(model, leaves_out=leaves_out)
        # strides of axes of one element, which mean nothing
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        through = DistributedDataParallel(
            _Learner(model, leaves_out=leaves_out), process_group=self.data, find_unused_parameters=leaves_out
        )

        def learn(loss: Loss, batch: Batch, is_last: bool) -> Tensor:
            with nullcontext() if is_last else through.no_sync():
                value: Tensor = through(loss, batch)
            return value

        return learn

    def clip(self, parameters: Sequence[nn.Parameter], limit: float, counted: Collection[nn.Parameter] = ()) -> Tensor:
        """See `Shares`."""
        if self.branch_ranks == 1:
            return super().clip(parameters, limit)
        gradients = [parameter.grad for parameter in counted if parameter.grad is not None]
        square = torch.zeros((), dtype=torch.float64, device=self.device)
        if gradients:
            square += nn.utils.get_total_norm(gradients).square()
        distributed.all_reduce(square, group=self.row)
        norm = square.sqrt()
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return norm

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """See `Shares`: one all-reduce, of all gradients of one dtype."""
        if self.data_ranks == 1:
            return
        there = self.total(torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float64))
        wanted = [p for p, count in zip(parameters, there.tolist(), strict=True) if count]
        for dtype in dict.fromkeys(parameter.dtype for parameter in wanted):
            those = [parameter for parameter in wanted if parameter.dtype == dtype]
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in those])
            distributed.all_reduce(flat, group=self.data)
            parts = torch.split(flat / self.data_ranks, [parameter.numel() for parameter in those])
            for parameter, part in zip(those, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    @property
    def row_name(self) -> str:
        """See `Shares`."""
        return str(self.row.group_name)

    @torch.no_grad()
    def tell(self, tensors: Iterable[Tensor]) -> None:
        """See `Shares`."""
        for tensor in tensors:
            value = tensor.detach().cpu().contiguous()
            distributed.broadcast(value, 0, group=self.control)
            if self.rank:
                tensor.copy_(value)

    def row_of(self, value: T) -> list[T]:
        """See `Shares`."""
        values = [value] * self.branch_ranks
        if self.branch_ranks > 1:
            distributed.all_gather_object(values, value, group=self.row)
        return values

    def scaler(self, device: torch.device, *, enabled: bool) -> torch.amp.GradScaler:
        """See `Shares`."""
        if self.branch_ranks == 1 or not enabled:
            return super().scaler(device, enabled=enabled)
        return ShardedGradScaler(device.type, process_group=self.row)

    def mean(self, value: float) -> float:
        """See `Shares`."""
        return float(self.total(torch.tensor([value], dtype=torch.float64))) / self.data_ranks

    def total(self, values: Tensor) -> Tensor:
        """See `Shares`."""
        if self.data_ranks == 1:
            return values
        there = values.to(self.device)
        distributed.all_reduce(there, group=self.data)
        return there.to(values.device)

    def agreed(self, value: Any) -> Any:
        """See `Shares`."""
        told = [value]
        distributed.broadcast_object_list(told, 0, group=self.control)
        return told[0]

    def is_same(self, value: Any) -> bool:
        """See `Shares`."""
        values = [value] * distributed.get_world_size()
        distributed.all_gather_object(values, value, group=self.control)
        return all(other == value for other in values)

    def keep(self, path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """See `Shares`."""
        name = self.agreed(secrets.token_hex(4))
        keep_shared_state(path, header, tensors, self.control, name=name, leads=self.rank == 0)


class _Learner(nn.Module):
    """Computes losses of a model in its `forward`, which is all that DistributedDataParallel watches."""

    def __init__(self, model: ParaFormer, *, leaves_out: bool) -> None:
        super().__init__()
        self.model = model
        if leaves_out:  # where a step uses all others, there is one that it does not use, or torch would warn
            self.unused = nn.Parameter(next(model.parameters()).new_zeros(1))

    def forward(self, loss: Callable[[ParaFormer, Batch], Tensor], batch: Batch) -> Tensor:
        return loss(self.model, batch)


def _backend(device: torch.device, size: int, control: distributed.ProcessGroup) -> str:
    """NCCL wants a GPU for each process."""
    devices = [""] * size
    distributed.all_gather_object(devices, f"{socket.gethostname()} {device}", group=control)
    is_own = device.type == "cuda" and len(set(devices)) == size and distributed.is_nccl_available()
    return "nccl" if is_own else "gloo"


def _group_among(lines: list[list[int]], backend: str) -> distributed.ProcessGroup:
    """The group of this process where all of each line make one."""
    group: distributed.ProcessGroup
    group, _ = distributed.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]  # torch does not annotate it
        lines, timeout=PATIENCE, backend=backend
    )
    return group
