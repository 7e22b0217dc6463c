"""What a program launches: a kernel for each operator that moves or computes something, with its sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from parallelize.models.capture import capture
from parallelize.models.program import Program
from parallelize.predicting.kernel import Kernel, Kernels
from parallelize.predicting.kernels import kernels
from passes.errors import ParallelizeError
from passes.registry import FUSION
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from tests.parallelize.small_models import pairs, vision

WIDTH = 8
Row = tuple[str, int, int, int, int]


class Calls(nn.Module):
    """A function of the input and of some parameters."""

    def __init__(self, function: Callable[..., Tensor], **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterDict(parameters)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **self.weights)


def _program(function: Callable[..., Tensor], *shape: int, **parameters: Tensor) -> Program:
    return capture(Calls(function, **parameters).eval(), (torch.zeros(2, *shape),))


def _listed(function: Callable[..., Tensor], *shape: int, **parameters: Tensor) -> list[Kernel]:
    found = kernels(_program(function, *shape, **parameters), {"batch": 3}, "bf16")
    return [launch.kernel for launch in found.launches for _ in range(launch.times)]


def _rows(found: list[Kernel]) -> list[Row]:
    return [(k.kind, k.batch, k.rows, k.columns, k.inner) for k in found]


SQUARE = torch.zeros(WIDTH, WIDTH)
PLAIN = (0, 0, 0, 0)


def test_a_linear_is_one_product_of_all_rows_with_its_bias() -> None:
    (found,) = _listed(nn.functional.linear, 5, WIDTH, weight=torch.zeros(4, WIDTH), bias=torch.zeros(4))
    moved = 3 * 5 * WIDTH + 4 * WIDTH + 4 + 3 * 5 * 4
    assert found == Kernel("product", 2 * moved, 1, 15, 4, WIDTH)
    assert found.flops == 2 * 15 * 4 * WIDTH


def test_sizes_follow_the_batch_and_bytes_the_precision() -> None:
    program = _program(lambda x, w: torch.relu(x @ w), 5, WIDTH, w=SQUARE)
    one, four = (kernels(program, {"batch": batch}, "fp32").launches for batch in (1, 4))
    assert [each.kernel.rows for each in (one[0], four[0])] == [5, 20]
    assert [each.kernel.bytes for each in (one[1], four[1])] == [4 * 2 * 5 * WIDTH * batch for batch in (1, 4)]
    assert kernels(program, {"batch": 4}, "fp16").launches[1].kernel.bytes == four[1].kernel.bytes // 2


@pytest.mark.parametrize(
    ("function", "shape", "wanted"),
    [
        (lambda x: x.transpose(1, 2)[:, :2].unsqueeze(1), (5, WIDTH), []),
        (lambda x: x.reshape(x.shape[0], 40), (5, WIDTH), []),
        (lambda x: x.transpose(1, 2).reshape(x.shape[0], 40), (5, WIDTH), [("copy", *PLAIN)]),
        (lambda x: torch.cat([x, x], 1), (WIDTH,), [("copy", *PLAIN)]),
        (lambda x: x + x.transpose(1, 2), (WIDTH, WIDTH), [("copy", *PLAIN)]),
        (nn.functional.gelu, (WIDTH,), [("pointwise", *PLAIN)]),
        (lambda x: x.float().contiguous() + 1, (WIDTH,), [("pointwise", *PLAIN)]),
        (lambda x: x.softmax(-1).sum(1), (5, WIDTH), [("norm", *PLAIN)] * 2),
        (lambda x: nn.functional.layer_norm(x, (WIDTH,)), (5, WIDTH), [("norm", *PLAIN)]),
        (
            lambda x: nn.functional.layer_norm(x.transpose(1, 2), (5,)),
            (5, WIDTH),
            [("copy", *PLAIN), ("norm", *PLAIN)],
        ),
        (lambda x: torch.bmm(x, x), (WIDTH, WIDTH), [("product", 3, WIDTH, WIDTH, WIDTH)]),
        (lambda x: torch.einsum("bij,bkj->bik", x, x), (5, WIDTH), [("product", 3, 5, 5, WIDTH)]),
        (
            lambda x: nn.functional.scaled_dot_product_attention(x, x[:, :, :3], x[:, :, :3]),
            (2, 5, WIDTH),
            [("attention", 6, 5, 3, WIDTH)],
        ),
    ],
    ids=[
        "views",
        "reshape that is a view",
        "reshape of what is transposed",
        "cat",
        "add of what is transposed",
        "gelu",
        "cast to what it is",
        "reductions",
        "layer norm",
        "layer norm of what is transposed",
        "bmm",
        "einsum",
        "attention",
    ],
)
def test_operators_become_kernels(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], wanted: list[Row]
) -> None:
    assert _rows(_listed(function, *shape)) == wanted


def test_a_batched_product_with_a_bias_copies_the_bias_to_where_it_writes() -> None:
    found = _listed(lambda x, b: torch.baddbmm(b, x, x), WIDTH, WIDTH, b=torch.zeros(1, 1, WIDTH))
    assert _rows(found) == [("copy", *PLAIN), ("product", 3, WIDTH, WIDTH, WIDTH)]
    assert found[0].bytes == 2 * 2 * 3 * WIDTH * WIDTH


def test_a_convolution_is_a_product_of_patches_for_each_group_and_its_bias_comes_behind() -> None:
    weight, bias = torch.zeros(6, 2, 3, 3), torch.zeros(6)
    found = _listed(lambda x, w, b: nn.functional.conv2d(x, w, b, padding=1, groups=2), 4, 5, 5, w=weight, b=bias)
    assert _rows(found) == [("convolution", 2, 75, 3, 18), ("pointwise", *PLAIN)]


def test_of_a_table_only_the_rows_count_that_are_read() -> None:
    module = nn.Embedding(1000, WIDTH).eval()
    (found,) = kernels(capture(module, (torch.zeros(2, 5, dtype=torch.int64),)), {"batch": 3}, "bf16").launches
    assert found.kernel == Kernel("copy", 2 * 2 * 15 * WIDTH)


def test_a_recurrence_is_a_product_for_all_inputs_and_two_kernels_for_each_step() -> None:
    program = capture(nn.GRU(4, WIDTH, 2, batch_first=True).eval(), (torch.zeros(2, 5, 4),))
    found = kernels(program, {"batch": 3}, "bf16")
    steps = [launch for launch in found.launches if launch.kernel.rows == 3]
    assert [(launch.times, launch.kernel.columns, launch.kernel.inner) for launch in steps] == [(10, 24, WIDTH)]
    inputs = [launch.kernel.inner for launch in found.launches if launch.kernel.rows == 15]
    assert inputs == [4, WIDTH]


def test_fusion_makes_fewer_kernels_of_the_same_work() -> None:
    program = vision(4)
    unfused, _ = run_passes(program.module, [ApplyPlan(pairs("none"))])
    fused, _ = run_passes(unfused, FUSION)
    counts: list[Kernels] = []
    for module in (program.module, unfused, fused):
        other = Program(module, program.inputs, program.outputs, program.origin)
        counts.append(kernels(other, {"batch": 1}, "bf16"))
    serial, side_by_side, wide = counts
    assert wide.count < serial.count <= side_by_side.count
    assert wide.flops == pytest.approx(serial.flops, rel=0.01)


def test_what_only_the_data_tell_is_refused_with_the_node() -> None:
    class Chosen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    with pytest.raises(ParallelizeError, match=r"The kernels of node 'cond', a cond, depend on the data") as caught:
        kernels(capture(Chosen().eval(), (torch.zeros(2, WIDTH),)), {"batch": 1}, "bf16")
    assert "bench" in caught.value.hint


def test_a_size_that_only_the_data_tell_is_refused() -> None:
    with pytest.raises(ParallelizeError, match=r"has the size u0, which only the data tell"):
        _listed(lambda x: x.nonzero(), WIDTH)
