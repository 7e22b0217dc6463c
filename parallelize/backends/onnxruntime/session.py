"""ONNX Runtime: on the CPU it runs everywhere and checks every ONNX file that is written; it may offer a GPU, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallelize.data.tensor_spec import TensorSpec
from passes.errors import EnvironmentLackError, ParallelizeError

if TYPE_CHECKING:
    from parallelize.models.program import Program

CUDA = "CUDAExecutionProvider"
_NO_KERNEL = "NOT_IMPLEMENTED"
_NO_KERNEL_HINT = "It has this operator in other types only: convert the model in float32, as after model.float()."
_WEIGHTS = "session.model_external_initializers_file_folder_path"
_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}


class OnnxRuntime:
    """One ONNX model in a session of ONNX Runtime.

    Attributes:
        name: of the runner.
        device: where it runs.
        inputs: what the model reads.
        outputs: what it returns.
        graphable: false, as a session allocates its outputs in each run.
    """

    graphable = False

    def __init__(
        self,
        model: Path | bytes,
        threads: int,
        *,
        cuda: bool = False,
        tf32: bool = False,
        weights: Path | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: the .onnx file, or its content.
            threads: threads inside an operator; operators run one after another.
            cuda: run on the GPU.
            tf32: let float32 products on the GPU be rounded to TF32.
            weights: the directory of the weights that are not inside the content.

        Raises:
            EnvironmentLackError: ONNX Runtime is not installed, or does not offer a GPU that was asked for.
            ParallelizeError: ONNX Runtime refuses the model.
        """
        self.name = "onnxruntime-cuda" if cuda else "onnxruntime"
        self.device = torch.device("cuda" if cuda else "cpu")
        self._model, self._threads, self._tf32, self._weights = model, threads, tf32, weights
        self._stream: int | None = None
        require(cuda=cuda)
        self._session = self._start()
        self.inputs = tuple(self._spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(self._spec(node) for node in self._session.get_outputs())

    @classmethod
    def written(
        cls, program: Program, path: Path, threads: int = 1, *, cuda: bool = False, tf32: bool = False
    ) -> OnnxRuntime:
        """Write a program as ONNX and open the file.

        Raises:
            EnvironmentLackError: as for a file.
            ParallelizeError: an operator has no ONNX form, or ONNX Runtime refuses the file.
        """
        from parallelize.export.onnx import write_onnx

        write_onnx(program, path)
        return cls(path, threads, cuda=cuda, tf32=tf32)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run on tensors in the order of the model's inputs; the outputs are on the device of the first one.

        Raises:
            ParallelizeError: an input or output is bfloat16.
        """
        home = inputs[0].device
        return [torch.from_numpy(value).to(home) for value in self._session.run(None, self._feed(inputs))]

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """A call without arguments that runs these inputs, for timing; on a GPU it enqueues on the current stream.

        Raises:
            ParallelizeError: an input or output is bfloat16.
        """
        if self.device.type == "cuda":
            return self._enqueue(inputs)
        feed = self._feed(inputs)
        return lambda: self._session.run(None, feed)

    def _feed(self, inputs: Sequence[Tensor]) -> dict[str, object]:
        self._require_numpy()
        values = zip(self.inputs, inputs, strict=True)
        return {spec.name: value.detach().to("cpu", spec.dtype).numpy() for spec, value in values}

    def _require_numpy(self) -> None:
        """Values go in and come out as arrays of NumPy, which has no bfloat16."""
        for spec in (*self.inputs, *self.outputs):
            if spec.dtype == torch.bfloat16:
                raise ParallelizeError(
                    f"The model reads or returns {spec.name!r} in bfloat16, of which there are no arrays to run it on.",
                    "Export it with inputs and outputs of float32; what is between them may be bfloat16.",
                )

    def _enqueue(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """Inputs and outputs stay on the GPU; a session is tied to one stream, so another stream has a new session."""
        self._require_numpy()
        stream = int(torch.cuda.current_stream().cuda_stream)
        if stream != self._stream:
            self._stream, self._session = stream, self._start(stream)
        session, options = self._session, _library().RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        binding = session.io_binding()
        for spec, value in zip(self.inputs, inputs, strict=True):
            binding.bind_ortvalue_input(
                spec.name, _library().OrtValue.ortvalue_from_numpy(value.to("cpu", spec.dtype).numpy(), "cuda", 0)
            )
        for spec in self.outputs:
            binding.bind_output(spec.name, "cuda")
        return lambda: session.run_with_iobinding(binding, options)

    def _start(self, stream: int | None = None) -> Any:
        onnxruntime = _library()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self._weights is not None:
            options.add_session_config_entry(_WEIGHTS, str(self._weights))
        name = self._model.name if isinstance(self._model, Path) else "the model"
        try:
            return onnxruntime.InferenceSession(
                str(self._model) if isinstance(self._model, Path) else self._model,
                options,
                providers=self._providers(stream),
            )
        except Exception as error:  # ONNX Runtime raises its own classes without a common base
            reason = str(error).splitlines()[0]
            hint = _NO_KERNEL_HINT if _NO_KERNEL in reason else "Please report this with the model."
            raise ParallelizeError(f"ONNX Runtime refuses {name}: {reason}", hint) from error

    def _providers(self, stream: int | None) -> list[Any]:
        if self.device.type == "cpu":
            return ["CPUExecutionProvider"]
        options = {"use_tf32": str(int(self._tf32))}
        return [(CUDA, options if stream is None else {**options, "user_compute_stream": str(stream)})]

    def _spec(self, node: Any) -> TensorSpec:
        if node.type not in _TYPES:
            raise ParallelizeError(
                f"The model has the value {node.name!r} of type {node.type}.", f"It must be one of {', '.join(_TYPES)}."
            )
        sizes = (size if isinstance(size, int | str) else f"dim_{axis}" for axis, size in enumerate(node.shape))
        return TensorSpec(node.name, tuple(sizes), _TYPES[node.type])


def require(*, cuda: bool) -> None:
    """Refuse where ONNX Runtime is not here, or offers no GPU where one is asked for.

    Raises:
        EnvironmentLackError: with how to install it.
    """
    library = _library()
    if cuda:
        _require_cuda(library)


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentLackError("ONNX Runtime is not installed.", "pip install onnxruntime") from error
    return onnxruntime


def _require_cuda(onnxruntime: Any) -> None:
    if CUDA not in onnxruntime.get_available_providers():
        raise EnvironmentLackError(
            "The installed ONNX Runtime offers no GPU.", "pip install onnxruntime-gpu, on a machine with a GPU."
        )
    if not torch.cuda.is_available():
        raise EnvironmentLackError("onnxruntime-cuda needs a GPU, and this machine has none.", "Use onnxruntime.")
