"""ONNX Runtime on the CPU: runs everywhere, and checks every ONNX file that is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from passes.errors import EnvironmentLackError, ParallelizeError


class OnnxRuntime:
    """One ONNX model in ONNX Runtime's CPU provider."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load a model.

        Args:
            path: the .onnx file.
            threads: threads inside an operator; operators run one after another.

        Raises:
            EnvironmentLackError: ONNX Runtime is not installed.
            ParallelizeError: ONNX Runtime refuses the model.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise EnvironmentLackError("ONNX Runtime is not installed.", "pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own classes without a common base
            raise ParallelizeError(
                f"ONNX Runtime refuses {path.name}: {str(error).splitlines()[0]}", "Please report this with the model."
            ) from error
        self.inputs = [node.name for node in self._session.get_inputs()]
        self.outputs = [node.name for node in self._session.get_outputs()]

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run on tensors in the order of the model's inputs."""
        return [torch.from_numpy(value) for value in self._session.run(None, self._feed(inputs))]

    def _feed(self, inputs: Sequence[Tensor]) -> dict[str, object]:
        return {name: value.numpy() for name, value in zip(self.inputs, inputs, strict=True)}

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """A call without arguments that runs these inputs, for timing."""
        feed = self._feed(inputs)
        return lambda: self._session.run(None, feed)
