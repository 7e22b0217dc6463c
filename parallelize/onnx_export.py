"""Write a program as ONNX: dynamic dimensions kept, LayerNormalization as one operator, checked."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from parallelize.capture import Program, export
from passes.errors import ParallelizeError

OPSET = 18
_INLINE_LIMIT = 1 << 30  # bytes of weights that go into the .onnx file itself; a protobuf ends at 2 GiB


def write_onnx(program: Program, path: Path, opset: int = OPSET) -> None:
    """Export to ONNX and check the result.

    Args:
        program: what to export.
        path: the .onnx file; weights of 1 GiB and more go to a file beside it.
        opset: at least 18.

    Raises:
        ParallelizeError: an operator has no ONNX form, or the checker refuses the model.
    """
    import onnx
    import torch

    exported = export(program)
    size = sum(value.numel() * value.element_size() for value in exported.state_dict.values())
    try:
        with _quiet():
            result = torch.onnx.export(
                exported,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name for spec in program.inputs],
                output_names=[spec.name for spec in program.outputs],
                verbose=False,
            )
            assert result is not None
            result.save(str(path), external_data=size >= _INLINE_LIMIT)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ParallelizeError(
            f"The model cannot be written as ONNX: {first}", "Run with --debug to see the operator and where it is."
        ) from error
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ParallelizeError(
            f"The ONNX checker refuses the exported model: {error}", "Please report this with the model."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter away from the user's terminal."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def operator_counts(path: Path) -> dict[str, int]:
    """How often each ONNX operator occurs in a file, the most frequent first."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return dict(Counter(node.op_type for node in model.graph.node).most_common())
