"""`parallelize.load`: a directory of `convert`, or a file, as a module to call.

| backend | runs | on |
|---|---|---|
| torch | model.pt2, .pt | the CPU or a GPU; a state dict, gradients |
| onnxruntime | model.onnx | the CPU, or a GPU where ONNX Runtime has one |
| tensorrt, tensorrt-rtx | model.engine | a GPU |
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from parallelize.backends.backend import ONNX, PROGRAM, Backend
from parallelize.backends.onnxruntime.backend import ONNXRUNTIME, ONNXRUNTIME_CUDA
from parallelize.backends.runner_options import RunnerOptions
from parallelize.backends.tensorrt.backend import ENGINE, EngineBackend
from parallelize.backends.tensorrt.sidecar import read_sidecar, sidecar_path
from parallelize.backends.torch.backend import TORCH
from parallelize.conversion.loading.interface import Interface
from parallelize.conversion.loading.loaded import Loaded
from parallelize.conversion.loading.places import Place, find
from parallelize.conversion.loading.program import LoadedProgram
from parallelize.conversion.loading.runner import LoadedRunner, Opening
from parallelize.export.onnx_file import read_onnx
from parallelize.machine.device import choose_device
from parallelize.models.program import Program
from parallelize.models.returned import Returned
from parallelize.models.source import LoadOptions
from parallelize.models.sources import load_program
from passes.errors import ParallelizeError

_ALL_CORES = 0  # in the words of ONNX Runtime


def load(
    reference: str | os.PathLike[str],
    device: str | None = None,
    backend: str | None = None,
    *,
    threads: int | None = None,
    trust_engine: bool = False,
    allow_pickle: bool = False,
) -> Loaded:
    """Load what `convert` or `heal` wrote as a module with the original's named arguments and outputs.

    Args:
        reference: the directory, or a file: .pt2, .onnx, .engine, or a Para-Former's .pt.
        device: such as "cpu" or "cuda"; None is a GPU where there is one that the backend runs on.
        backend: "torch", "onnxruntime", "tensorrt" or "tensorrt-rtx"; None is torch, and for a file what runs its kind.
        threads: of ONNX Runtime on the CPU; None is one for each core. Those of torch are torch's own setting.
        trust_engine: load an engine that has no matching sidecar; an engine is code and runs.
        allow_pickle: load a file with pickled objects, which runs code in it.

    Returns:
        A `torch.nn.Module` in evaluation that knows its `plan`, `report`, `inputs`, `outputs` and `device`.

    Raises:
        EnvironmentLackError: this machine lacks the GPU or the library.
        ParallelizeError: nothing that can be loaded, or not by this backend.
    """
    loading = _Loading(os.path.abspath(reference), device, backend, threads, trust_engine, allow_pickle)  # noqa: PTH100
    return loading.of(find(reference, backend))


@dataclass(frozen=True)
class _Loading:
    """What `load` was asked for; called with the name of a device it loads the same there."""

    reference: str
    device: str | None
    backend: str | None
    threads: int | None
    trust_engine: bool
    allow_pickle: bool

    def __call__(self, device: str | None) -> LoadedRunner:
        wanted = self if device is None else replace(self, device=device)
        found = wanted.of(find(self.reference, self.backend))
        assert isinstance(found, LoadedRunner)
        return found

    def of(self, place: Place) -> Loaded:
        if place.backend == TORCH:
            if self.threads is not None:
                raise ParallelizeError("The threads of torch are set for a whole process.", "torch.set_num_threads(N)")
            device = choose_device(self.device)
            return LoadedProgram(self._program(place), place.origin, device)
        backend, options = self._where(place.backend)
        source = self._program(place) if place.kind == PROGRAM else str(place.file)
        interface = self._described(place, source)
        return LoadedRunner(Opening(source, place.kind, backend, options, self), interface, place.origin)

    def _program(self, place: Place) -> Program:
        program = load_program(str(place.file), LoadOptions(allow_pickle=self.allow_pickle))
        return replace(program, origin=place.origin.model)

    def _described(self, place: Place, source: Program | str) -> Interface | None:
        """How a network is called, as program or file say it; None where only what runs it does."""
        label = place.origin.model
        if isinstance(source, Program):
            return Interface(label, source.inputs, source.outputs, Returned.of(source))
        if place.kind == ONNX:
            file = read_onnx(place.file)
            return Interface(label, file.inputs, file.outputs, file.returns)
        if place.kind != ENGINE or (self.trust_engine and not sidecar_path(place.file).is_file()):
            return None
        sidecar = read_sidecar(place.file)
        names = [spec.name for spec in sidecar.outputs]
        return Interface(label, sidecar.inputs, sidecar.outputs, Returned.from_metadata(sidecar.returns, names))

    def _where(self, backend: Backend) -> tuple[Backend, RunnerOptions]:
        """The backend for the device, and its options."""
        if self.device is not None and choose_device(self.device).index:
            raise ParallelizeError(
                f"{backend.name} runs on the first GPU, not on {self.device}.",
                "Choose the GPU by CUDA_VISIBLE_DEVICES in the environment.",
            )
        threads = _ALL_CORES if self.threads is None else self.threads
        options = RunnerOptions(trust=self.trust_engine, threads=threads)
        if backend in (ONNXRUNTIME, ONNXRUNTIME_CUDA):
            return _onnxruntime(backend, self.device), options
        if isinstance(backend, EngineBackend):
            if self.device is not None and choose_device(self.device).type != "cuda":
                raise ParallelizeError(f"{backend.name} runs on a GPU, not on {self.device}.", "Leave out the device.")
            return backend, options
        return backend, replace(options, device=self.device)


def _onnxruntime(wanted: Backend, device: str | None) -> Backend:
    """ONNX Runtime on the CPU or on a GPU."""
    if device is None:
        return ONNXRUNTIME_CUDA if wanted == ONNXRUNTIME_CUDA or ONNXRUNTIME_CUDA.lack() is None else ONNXRUNTIME
    kind = choose_device(device).type
    if wanted == ONNXRUNTIME_CUDA and kind == "cpu":
        raise ParallelizeError("onnxruntime-cuda runs on a GPU, not on cpu.", "Use the backend onnxruntime.")
    return ONNXRUNTIME_CUDA if kind == "cuda" else ONNXRUNTIME
