"""Time and operators against the number of layers: a serial network, and a Para-Former of as many branches.

    serial    blocks one after another
    looped    branches of one block, run one after another
    fused     branches as wide operations, as they are trained
    folded    the same for inference

One sample, one thread, candidates in turn, CPU time of the thread; on a GPU by events, in turn, launched one by one
by the host and replayed as a CUDA graph.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu import measuring
from benchmarks.paraformer_speed import in_turn, operators, session
from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.backends.tensorrt.build import build
from parallelize.backends.tensorrt.layers import critical_layers, kernels
from parallelize.backends.tensorrt.library import RTX
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import ShapeOptions
from parallelize.export.onnx import write_onnx
from parallelize.models.capture import capture

FORMS = ("serial", "looped", "fused", "folded")
Wanted = Mapping[str, tuple[int, ...]]  # numbers of layers by form
_CAPABILITY = "8.9"  # engines are built for one GPU, which is enough to count kernels


@dataclass(frozen=True)
class Shape:
    """What a network reads and how wide it is.

    Attributes:
        width: features of the state.
        heads: of a block.
        hidden: features between the two linears of an MLP.
        side: pixels of an image.
        patch: pixels of a patch.
        channels: of an image.
    """

    width: int
    heads: int
    hidden: int
    side: int = 28
    patch: int = 4
    channels: int = 1

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        return (self.side // self.patch) ** 2

    def image(self, batch: int = 1) -> Tensor:
        """Random pixels."""
        return torch.rand(batch, self.channels, self.side, self.side) * 255

    def network(self, layers: int, *, serial: bool = False) -> VisionParaFormer:
        """With random weights, which do not matter to time."""
        return VisionParaFormer(
            VisionConfig(
                image_size=self.side,
                patch_size=self.patch,
                channels=self.channels,
                width=self.width,
                heads=self.heads,
                hidden=self.hidden,
                depth=layers,
                mode="serial" if serial else "para-former",
                branches=1 if serial else layers,
            )
        ).eval()

    def forms(self, layers: int) -> dict[str, nn.Module]:
        """All forms of as many layers."""
        branches = self.network(layers)
        forms = (self.network(layers, serial=True), branches, branches.fuse(), branches.fold())
        return dict(zip(FORMS, forms, strict=True))


def cpu_times(shape: Shape, eagerly: Wanted, compiled_too: Wanted, turns: int) -> dict[str, Any]:
    """Milliseconds by runner, form and number of layers, and operators of the exported graph.

    Args:
        shape: of the networks.
        eagerly: what is timed in eager PyTorch.
        compiled_too: what of it is timed in ONNX Runtime.
        turns: of each.
    """
    image = shape.image()
    networks = {f"{form}/{n}": shape.forms(n)[form] for form, counts in eagerly.items() for n in counts}
    eager = {name: _call(network, image) for name, network in networks.items()}
    names = [f"{form}/{n}" for form, counts in compiled_too.items() for n in counts]
    compiled = {name: session(networks[name], image, 1) for name in names}
    with torch.inference_mode():
        times = {
            "eager": in_turn(eager, turns, time.thread_time),
            "onnxruntime": in_turn(compiled, turns, time.thread_time),
        }
    counts = {name: operators(network, image)["computing"] for name, network in networks.items()}
    return {"ms": {runner: _by_form(found) for runner, found in times.items()}, "operators": _by_form(counts)}


def equal_depths(times: dict[str, Any], blocks: int) -> dict[str, int]:
    """By runner, the blocks of the deepest serial network that is no slower than a folded Para-Former of `blocks`."""
    found = {}
    for runner, forms in times.items():
        limit = forms["folded"][str(blocks)]
        within = [int(count) for count, taken in forms["serial"].items() if taken <= limit]
        found[runner] = max(within, default=1)
    return found


def engine_kernels(shape: Shape, layers: tuple[int, ...]) -> dict[str, dict[str, dict[str, int]]]:
    """Kernels of engines of TensorRT for RTX by form and layers: all, and the most that wait for each other.

    Raises:
        EnvironmentLackError: the library is not installed.
    """
    found = {f"{form}/{count}": _engine(shape, network)
             for count in layers for form, network in shape.forms(count).items() if form != "fused"}  # fmt: skip
    return _by_form(found)


def _engine(shape: Shape, network: nn.Module) -> dict[str, int]:
    program = capture(network, (shape.image(2),))
    (spec,) = program.inputs
    fixed = ShapeOptions.fixed({spec.name: tuple(shape.image().shape)})
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        write_onnx(program, onnx)
        options = BuildOptions(shapes=fixed, compute_capabilities=(_CAPABILITY,))
        layers = build(onnx, Path(folder) / "model.engine", RTX, options).layers
    return {"kernels": kernels(layers), "critical": critical_layers(layers)}


@torch.inference_mode()
def gpu_times(shape: Shape, layers: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Microseconds in bfloat16 by form and layers, launched one by one and as a CUDA graph; on the CPU without one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    image = shape.image().to(device, torch.bfloat16)
    networks = {f"{form}/{count}": network.to(device, torch.bfloat16)
                for count in layers for form, network in shape.forms(count).items()}  # fmt: skip
    eager = {name: _call(network, image) for name, network in networks.items()}
    graphs = {name: measuring.replay(call) for name, call in eager.items()}
    found = {}
    for runner, calls in (("eager", eager), ("graph", graphs)):
        seconds = measuring.in_turn(calls, rounds)
        found[runner] = _by_form(
            {name: round(measuring.summary(each)["median_us"], 2) for name, each in seconds.items()}
        )
    return found


def _call(network: nn.Module, image: Tensor) -> Callable[[], object]:
    return lambda: network(image)


def _by_form(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """From "form/layers" to form, then layers."""
    sorted_out: dict[str, dict[str, Any]] = {}
    for name, value in found.items():
        form, layers = name.split("/")
        sorted_out.setdefault(form, {})[layers] = value
    return sorted_out
