"""The shares of one of several processes, on torch.distributed: a mesh of ("data", "branch") ranks.

    data      DistributedDataParallel averages gradients over a column, in buckets, while the backward pass still runs
    branch    `SpreadBranches`: one all-reduce of a state forward, one of its gradient backward, within a row

Neighbouring ranks share branches, because they say more to each other than those that share samples. Tensors on GPUs go
by NCCL where each rank has a GPU of its own, all others by gloo. Nothing here waits for less than a day: that another
rank is gone is for the caller to notice.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Mapping
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
from paraformer.training.shares import Form, Learner, Shares, check_ranks
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
        first = self.mesh.get_local_rank("branch") * each
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

    def clip(self, model: ParaFormer, limit: float) -> None:
        """See `Shares`."""
        if self.branch_ranks == 1:
            super().clip(model, limit)
            return
        own: list[nn.Parameter] = []
        common: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                (own if name.startswith("blocks.") else common).append(parameter)
        squares = torch.stack([_square_of_norm(part, self.device) for part in (own, common)])
        distributed.all_reduce(squares[:1], group=self.row)
        nn.utils.clip_grads_with_norm_([*own, *common], limit, squares.sum().sqrt())

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

    def whole(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Shares`."""
        if self.branch_ranks == 1:
            return dict(named)
        parts: list[dict[str, Tensor]] = [{}] * self.branch_ranks
        own = {name: value.detach().cpu().clone() for name, value in named.items()}
        distributed.all_gather_object(parts, own, group=self.row)
        return {name: value for part in parts for name, value in part.items()}

    def keep(
        self,
        path: Path,
        identity: Mapping[str, Any],
        plain: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        name: str,
    ) -> None:
        """See `Shares`."""
        keep_shared_state(path, identity, plain, tensors, self.control, name=name, leads=self.rank == 0)


class _Learner(nn.Module):
    """Computes losses of a model in its `forward`, which is all that DistributedDataParallel watches."""

    def __init__(self, model: ParaFormer, *, leaves_out: bool) -> None:
        super().__init__()
        self.model = model
        if leaves_out:  # where a step uses all others, there is one that it does not use, or torch would warn
            self.unused = nn.Parameter(next(model.parameters()).new_zeros(1))

    def forward(self, loss: Callable[[ParaFormer, Batch], Tensor], batch: Batch) -> Tensor:
        return loss(self.model, batch)


def _square_of_norm(parameters: list[nn.Parameter], device: torch.device) -> Tensor:
    """Of the gradients together; nothing where this process has none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), dtype=torch.float64, device=device)
    return nn.utils.get_total_norm(gradients).double().square()


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
