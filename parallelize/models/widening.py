"""Models that compute in half precision: converted in fp32, where every CPU can measure, and cast back in the end."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.on_disk import wide_on_disk
from parallelize.models.program import Program
from parallelize.terminal.progress import Report
from passes.precision.cast_precision import HALF_DTYPES, Precision
from passes.precision.widen_precision import WidenPrecision, half_precision
from passes.runner import PassRecord, run_passes

_log = logging.getLogger(__name__)


def widened(program: Program, report: Report) -> tuple[Program, Precision, tuple[PassRecord, ...]]:
    """A program in fp32, the precision that it had, and what was done; one of fp32 as it is.

    Many weights come to lie in a file as they are widened.
    """
    half = half_precision(program.module)
    if half is None:
        return program, "fp32", ()
    module, records = run_passes(wide_on_disk(program, report).module, [WidenPrecision()])
    if half_precision(module) is not None:
        return program, "fp32", records
    spelled: Precision = "bf16" if half == torch.bfloat16 else "fp16"
    _log.warning(
        "%s computes in %s: it is converted in fp32, its inputs and outputs are fp32.", program.origin, spelled
    )
    inputs, outputs = (tuple(map(_wide, specs)) for specs in (program.inputs, program.outputs))
    return replace(program, module=module, inputs=inputs, outputs=outputs, original=None), spelled, records


def _wide(spec: TensorSpec) -> TensorSpec:
    is_half = spec.dtype in HALF_DTYPES.values()
    return replace(spec, dtype=torch.float32) if is_half else spec
