"""Run an engine on a GPU through torch's own memory and streams.

    with Engine(Path("model.engine")) as engine:
        (logits,) = engine([images])

Tensors are torch CUDA tensors whose addresses the context gets; nothing is copied. A call enqueues on torch's current
stream, so that it can be captured into a CUDA graph after one plain run with the same shapes and addresses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallelize.backends.tensorrt.layers import Layer, from_json
from parallelize.backends.tensorrt.library import TENSORRT, Library, find_library, gpu_capability
from parallelize.backends.tensorrt.messages import last_words, make_logger
from parallelize.backends.tensorrt.profiles import Profile
from parallelize.backends.tensorrt.sidecar import Sidecar, check_fits, read_sidecar
from parallelize.data import readable
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import EnvironmentLackError, ParallelizeError

if TYPE_CHECKING:
    from typing_extensions import Self

_DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}


class Engine:
    """A loaded engine with one execution context.

    Attributes:
        inputs: what it reads, in its order.
        outputs: what it returns.
        sidecar: what is known of it; None of a trusted engine without one.
        profile: the number of the optimization profile in use.
    """

    def __init__(self, path: Path, *, trust: bool = False, profile: int = 0, backend: str | None = None) -> None:
        """Load an engine.

        Args:
            path: the engine; its sidecar lies beside it.
            trust: load it without a matching sidecar: it is code and runs with your rights.
            profile: the optimization profile to use.
            backend: the library that is to run it; None is the one of the sidecar.

        Raises:
            EnvironmentLackError: the library or the GPU is missing.
            ParallelizeError: no sidecar or another engine's, another version or GPU, or a file that is no engine.
        """
        readable(path)
        self.sidecar = _sidecar(path, trust=trust)
        self.library = find_library(_backend(self.sidecar, backend, path.name))
        capability = gpu_capability()
        if self.sidecar is not None:
            check_fits(self.sidecar, path.name, self.library.version, capability)
        if capability is None:
            raise EnvironmentLackError(
                f"{path.name} runs on a GPU, and there is none here.",
                "Run the ONNX that it was built from, or take the engine to a machine with a CUDA GPU.",
            )
        self._turn = threading.Lock()  # there is one context
        self._logger = make_logger(self.library.module)
        self._runtime = self.library.module.Runtime(self._logger)
        compatible = self.sidecar is not None and self.sidecar.flags.get("version_compatible")
        if compatible:
            self._runtime.engine_host_code_allowed = True
        self._engine = _deserialized(self._runtime, self.library, self._logger, path)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise ParallelizeError(
                f"{path.name} got no execution context: {_reason(self._logger)}.", "Free memory of the GPU."
            )
        self.inputs, self.outputs = _io(self.library.module, self._engine)
        self.use_profile(profile)

    @property
    def profiles(self) -> int:
        """How many optimization profiles there are."""
        return int(self._engine.num_optimization_profiles)

    def use_profile(self, number: int) -> None:
        """Switch to another optimization profile.

        Raises:
            ParallelizeError: there is none of that number.
        """
        if not 0 <= number < self.profiles:
            raise ParallelizeError(
                f"The engine has no profile {number}.", f"Its profiles are numbered from 0 to {self.profiles - 1}."
            )
        stream = torch.cuda.current_stream()
        if not self._context.set_optimization_profile_async(number, stream.cuda_stream):
            raise ParallelizeError(f"Profile {number} was refused: {_reason(self._logger)}.", "Use another one.")
        stream.synchronize()
        self.profile = number

    def shapes(self) -> tuple[Profile, ...]:
        """The shapes of each input that the profile in use takes."""
        found = []
        for spec in self.inputs:
            low, usual, high = (
                tuple(shape) for shape in self._engine.get_tensor_profile_shape(spec.name, self.profile)
            )
            found.append(Profile(spec.name, low, usual, high))
        return tuple(found)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run and wait; threads that call at once take turns.

        Args:
            inputs: in the order of `inputs`; tensors of a CPU are copied to the GPU.

        Returns:
            The outputs, on the device of the first input.

        Raises:
            ParallelizeError: another number, dtype or shape of inputs than the engine takes.
        """
        home = inputs[0].device if inputs else torch.device("cuda")
        with self._turn:
            outputs = self._prepare([value.cuda().contiguous() for value in inputs])
            self._enqueue()
            torch.cuda.current_stream().synchronize()
        return [value.to(home) for value in outputs]

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """A call without arguments that enqueues these inputs on torch's current stream, and does not wait.

        Inputs and outputs stay at their addresses, so the call can be captured into a CUDA graph after it ran once.
        Another call of this engine takes the context away from it.

        Args:
            inputs: as for a call, but on the GPU and contiguous: what is written into them later is read.

        Raises:
            ParallelizeError: as for a call, or an input that is not on the GPU or not contiguous.
        """
        kept = list(inputs)
        outputs = self._prepare(kept)

        def call() -> list[Tensor]:
            assert kept  # the context knows their addresses only
            self._enqueue()
            return outputs

        return call

    def layers(self) -> tuple[Layer, ...]:
        """The layers, from the engine inspector."""
        form = self.library.module.LayerInformationFormat.JSON
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return from_json(inspector.get_engine_information(form))

    def close(self) -> None:
        """Give back the GPU's memory."""
        self._context = None
        self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Give the context shapes and addresses; the outputs, allocated."""
        if self._context is None:
            raise ParallelizeError("The engine is closed.", "Call it within its `with` block.")
        if len(inputs) != len(self.inputs):
            raise ParallelizeError(
                f"The engine reads {len(self.inputs)} inputs, not {len(inputs)}.",
                f"They are {', '.join(spec.name for spec in self.inputs)}.",
            )
        for spec, value, profile in zip(self.inputs, inputs, self.shapes(), strict=True):
            _check_input(spec, value, profile)
        for spec, value in zip(self.inputs, inputs, strict=True):
            self._context.set_input_shape(spec.name, tuple(value.shape))
            self._context.set_tensor_address(spec.name, value.data_ptr())
        if missing := self._context.infer_shapes():
            raise ParallelizeError(
                f"The engine cannot tell the shapes of {', '.join(missing)} from these inputs.", "Check their shapes."
            )
        outputs = []
        for spec in self.outputs:
            shape = tuple(self._context.get_tensor_shape(spec.name))
            if min(shape, default=0) < 0:
                raise ParallelizeError(
                    f"The shape of the output {spec.name!r} depends on the values of the inputs, which no memory can be"
                    " set aside for.",
                    "Run the ONNX that the engine was built from.",
                )
            outputs.append(torch.empty(shape, dtype=spec.dtype, device="cuda"))
            self._context.set_tensor_address(spec.name, outputs[-1].data_ptr())
        return outputs

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise ParallelizeError(
                f"The engine did not run: {_reason(self._logger)}.",
                "Check shapes and free memory of the GPU.",
            )


def _sidecar(path: Path, *, trust: bool) -> Sidecar | None:
    try:
        return read_sidecar(path)
    except ParallelizeError:
        if not trust:
            raise
        return None


def _backend(sidecar: Sidecar | None, wanted: str | None, name: str) -> str:
    if sidecar is None:
        return wanted or TENSORRT
    if wanted is not None and wanted != sidecar.backend:
        raise ParallelizeError(
            f"{name} differs in backend: it is of {sidecar.backend}, which {wanted} does not load.",
            f"Run it with {sidecar.backend}, or build it again.",
        )
    return sidecar.backend


def _deserialized(runtime: Any, library: Library, logger: Any, path: Path) -> Any:
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise ParallelizeError(
            f"{library.title} does not load {path.name}: {_reason(logger)}.",
            "Build it again on this machine with `parallelize build`.",
        )
    return engine


def _reason(logger: Any) -> str:
    return last_words(logger) or "no reason was given"


def _io(module: Any, engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs by what the engine says; a free dimension is called after its tensor and axis."""
    found: dict[bool, list[TensorSpec]] = {True: [], False: []}
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        shape = tuple(
            int(size) if size >= 0 else ("batch" if axis == 0 else f"dim_{axis}")
            for axis, size in enumerate(engine.get_tensor_shape(name))
        )
        spelled = str(engine.get_tensor_dtype(name)).rpartition(".")[2]
        if spelled not in _DTYPES:
            raise ParallelizeError(
                f"The tensor {name!r} of the engine is {spelled}, which is not supported.", "Cast it."
            )
        dtype = _DTYPES[spelled]
        found[engine.get_tensor_mode(name) == module.TensorIOMode.INPUT].append(TensorSpec(name, shape, dtype))
    return tuple(found[True]), tuple(found[False])


def _check_input(spec: TensorSpec, value: Tensor, profile: Profile) -> None:
    if value.dtype != spec.dtype:
        raise ParallelizeError(
            f"The input {spec.name!r} is {value.dtype}; the engine reads {spec.dtype}.", "Cast the tensor."
        )
    if not profile.holds(value.shape):
        raise ParallelizeError(
            f"The input {spec.name!r} has the shape {'x'.join(map(str, value.shape))}; the engine takes {profile}.",
            "Use such a shape, or build with other --min-shapes and --max-shapes.",
        )
    if not value.is_cuda:
        raise ParallelizeError(
            f"The input {spec.name!r} is on {value.device}; the engine reads the memory of the GPU.",
            "Move the tensor with .cuda().",
        )
    if not value.is_contiguous():
        raise ParallelizeError(
            f"The input {spec.name!r} is not contiguous; the engine reads one element behind another.",
            "Give .contiguous() of the tensor, and write into that.",
        )
