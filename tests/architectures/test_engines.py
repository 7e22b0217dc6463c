"""Networks of four families become engines of TensorRT for RTX, without a GPU, and side by side fewer kernels wait.

Every network is built as it was captured and with its blocks in fused pairs, in each precision, with free dimensions
and with fixed ones. `build` itself refuses an engine whose products have another dtype than was asked for; here it is
asked of its listing of layers once more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.zoo import ZOO
from benchmarks.zoo.checks import pairs_plan
from benchmarks.zoo.entry import VOCABULARY, draw_weights
from paraformer.checkpoint import load
from parallelize.backends.tensorrt.build import build
from parallelize.backends.tensorrt.layers import critical_layers, kernels, layers_of
from parallelize.backends.tensorrt.library import RTX
from parallelize.backends.tensorrt.options import STORED, BuildOptions
from parallelize.backends.tensorrt.sidecar import Sidecar
from parallelize.export.onnx import write_onnx
from parallelize.export.precision import cast
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from parallelize.models.program import Program
from passes.fusion.fuse_width import FuseWidth
from passes.precision.cast_precision import Precision
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.stacks.find import find_stacks

pytest.importorskip("transformers")
pytest.importorskip("tensorrt_rtx")
SHIPPED = Path(__file__).resolve().parents[2] / "examples" / "fashion_vit" / "vit12.pt"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Network:
    """A program with free dimensions or without, and an example of its inputs."""

    program: Program
    inputs: tuple[Tensor, ...]


def _vision(*, free: bool) -> Network:
    """The shipped vision transformer: 12 blocks, pre-norm."""
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 255
    dynamic = [{0: "batch"} if free else {}]
    return Network(capture(load(SHIPPED).build(), (images,), dynamic=dynamic, origin="vit"), (images,))


def _mini_language_model(*, free: bool) -> Network:
    """A BERT of the sizes of MiniLM: post-norm, 6 blocks of width 384 with 12 heads."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
    )
    return _captured(draw_weights(BertModel(config).eval()), "bert-sdpa", free=free)


def _of_the_zoo(name: str, *, free: bool) -> Network:
    return _captured(ZOO[name].model(), name, free=free)


def _captured(model: nn.Module, name: str, *, free: bool) -> Network:
    """With the inputs of an entry of the zoo."""
    entry = ZOO[name]
    inputs = entry.inputs()
    dynamic = [feed.dims if free else {} for feed in entry.feeds.values()]
    return Network(capture(model, (), inputs, dynamic=dynamic, origin=name), tuple(inputs.values()))


NETWORKS: dict[str, Callable[..., Network]] = {
    "vit": _vision,
    "minilm": _mini_language_model,
    "llama": functools.partial(_of_the_zoo, "llama-sdpa"),
    "resnet": functools.partial(_of_the_zoo, "resnet-basic"),
    "resnet-bottleneck": functools.partial(_of_the_zoo, "resnet-bottleneck"),
}
CASES = [
    pytest.param(name, precision, free, id=f"{name}-{precision}-{'free' if free else 'fixed'}")
    for name in NETWORKS
    for free in (True, False)
    for precision in PRECISIONS
]


@functools.lru_cache(maxsize=1)
def _serial_and_paired(name: str, *, free: bool) -> tuple[Program, Program]:
    network = NETWORKS[name](free=free)
    program, _ = clean(network.program, network.inputs)
    plan = pairs_plan(find_stacks(program.module).stacks, "sublayer")
    module, (_, fusion) = run_passes(program.module, [ApplyPlan(plan), FuseWidth()], network.inputs)
    assert fusion.matches
    assert not fusion.skipped
    return program, replace(program, module=module)


def _engine(program: Program, precision: Precision, folder: Path) -> Sidecar:
    folder.mkdir()
    write_onnx(cast(program, precision)[0], folder / "model.onnx")
    return build(folder / "model.onnx", folder / "model.engine", RTX, BuildOptions(precision=precision))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision", "free"), CASES)
def test_fewer_kernels_wait_in_the_engine_of_fused_pairs_and_all_products_are_in_the_precision(
    name: str, precision: Precision, free: bool, tmp_path: Path
) -> None:
    programs = _serial_and_paired(name, free=free)
    serial, paired = (_engine(program, precision, tmp_path / str(number)) for number, program in enumerate(programs))
    for sidecar in (serial, paired):
        assert _dtypes_of_products(sidecar) == {STORED[precision]}
        assert any(size == "batch" for spec in sidecar.inputs for size in spec.shape) == free
        assert all((profile.least == profile.largest) != free for profile in sidecar.profiles)
    assert any(product.wide is not None for product in paired.products)
    assert critical_layers(paired.layers) < critical_layers(serial.layers)
    assert kernels(paired.layers) < kernels(serial.layers)


def _dtypes_of_products(sidecar: Sidecar) -> set[str]:
    """Dtypes of the weights that the layers hold which compute weighted products of the ONNX file."""
    layers = [layer for product in sidecar.products for layer in layers_of(sidecar.layers, product.node)]
    matrices = [layer.weights for layer in layers if layer.weights]
    assert len(matrices) >= len(sidecar.products) / 2  # the library tells of most of them
    return {dtype for weights in matrices for dtype in weights}
