"""Cast a program to fp16 or bf16 before it is exported; what stays in fp32 is decided by measurement.

Norms and softmaxes always stay, without a measurement, because the measurement would be wrong: on the CPU PyTorch sums
up the statistics of a norm in fp32 whatever the dtype, and a backend need not. They cost little: TensorRT-RTX builds as
many layers for a transformer with them in fp32 as without. Whoever wants them in half precision too gives `candidates`.

What is measured is the residual sum. In fp32 it costs twice the memory traffic of the state, and it pays where the
state grows large: fp16 ends at 65,504, and in bf16 a term below 1/512 of the state is lost when it is added. The
cheapest candidate whose error is at most 1.1 times the least one is taken, of those that are in the range on all
samples (`parallelize.export.half_range`). Where none is, what leaves it stays in fp32, too.

Without samples nothing is known of the state. Then fp16 keeps the sum in fp32, because an overflow ruins the outputs,
and bf16 does not, because it has the range of fp32, and a sum rounds no more of it away than each product does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from parallelize.data import Samples
from parallelize.export.half_range import ROUNDS, cast_in_range
from parallelize.machine.mapped import let_go
from parallelize.metrics import Judge, Metric
from parallelize.models.on_disk import on_disk
from parallelize.models.program import Program
from passes.errors import CheckError, ParallelizeError
from passes.precision.cast_precision import HALF_DTYPES, CastPrecision, Precision
from passes.runner import PassRecord, run_passes

_log = logging.getLogger(__name__)
TOLERANCE = 1.1  # times the least error


@dataclass(frozen=True)
class KeptInFp32:
    """Which parts of a network stay in fp32; fields as in `passes.precision.cast_precision.CastPrecision`."""

    norms: bool = True
    softmax: bool = True
    state: bool = False

    def __str__(self) -> str:
        words = {"norms": "norms", "softmax": "softmaxes", "state": "residual sum"}
        return ", ".join(words[name] for name, kept in asdict(self).items() if kept) or "nothing"


CANDIDATES = (KeptInFp32(), KeptInFp32(state=True))
DEFAULTS = {"fp16": KeptInFp32(state=True), "bf16": KeptInFp32()}


@dataclass(frozen=True)
class PrecisionRecord:
    """What was cast, and what was measured.

    Attributes:
        dtype: "fp32", "fp16" or "bf16".
        kept: what stays in fp32; None where nothing was cast.
        errors: each candidate with its error against the program before, infinite where outputs are no numbers; empty
            where nothing was measured.
        metric: what the errors are.
        cast: what the pass did.
        wide: names of nodes that stay in fp32 because a sample leaves the range there.
        why: what left it, in words.
    """

    dtype: Precision
    kept: KeptInFp32 | None = None
    errors: tuple[tuple[KeptInFp32, float], ...] = ()
    metric: str = ""
    cast: PassRecord | None = None
    wide: tuple[str, ...] = ()
    why: str = ""


def cast(
    program: Program,
    dtype: Precision,
    samples: Samples | None = None,
    candidates: Sequence[KeptInFp32] = CANDIDATES,
    metric: Metric | str = "relative-l2",
    every: Sequence[Samples] = (),
) -> tuple[Program, PrecisionRecord]:
    """Cast a program; inputs and outputs keep their dtypes.

    Args:
        program: what to cast, after every other rewrite: what follows would have to know of the casts.
        dtype: "fp16" or "bf16"; "fp32" returns the program as it is.
        samples: inputs on which candidates are compared with the program; a few dozen tell them apart.
        candidates: what may stay in fp32, the cheapest first.
        metric: how outputs are compared.
        every: all samples there are, none of which may leave the range; without it those of `samples`.

    Raises:
        CheckError: a value leaves the range, whatever stays in fp32.
        ParallelizeError: an unknown dtype, no candidates, or a metric that cannot be measured on these samples.
    """
    if dtype == "fp32":
        return program, PrecisionRecord("fp32")
    if dtype not in HALF_DTYPES:
        raise ParallelizeError(f"There is no precision {dtype!r}.", "Use fp32, fp16 or bf16.")
    if not candidates:
        raise ParallelizeError("There are no candidates for what stays in fp32.", "Give at least one.")
    if samples is None:
        made, record = _cast(program, dtype, DEFAULTS[dtype] if candidates is CANDIDATES else candidates[0])
        return made, record
    judge = Judge(program.module, samples, metric)
    found = _in_range(program, dtype, candidates, every or (samples,))
    errors = [math.inf if kept not in found else _error(judge, found[kept][0]) for kept in candidates]
    made, record = found[candidates[_cheapest(errors)]]
    return made, replace(record, errors=tuple(zip(candidates, errors, strict=True)), metric=judge.metric.name)


def _in_range(
    program: Program, dtype: Precision, candidates: Sequence[KeptInFp32], every: Sequence[Samples]
) -> dict[KeptInFp32, tuple[Program, PrecisionRecord]]:
    """The candidates that are in the range on every sample; where none is, the last with what it takes beside."""
    found = {}
    for rounds in (1, ROUNDS):
        for kept in candidates if rounds == 1 else candidates[-1:]:
            try:
                made = cast_in_range(program, CastPrecision(dtype, **asdict(kept)), every, rounds)
            except CheckError:
                if rounds > 1:
                    raise
                continue
            there = on_disk(made.program, lambda said, _share: _log.warning(said))  # while others are tried
            found[kept] = there, PrecisionRecord(dtype, kept, cast=made.record, wide=made.wide, why=made.why)
            del made
            let_go()
        if found:
            break
    return found


def _cast(program: Program, dtype: Precision, kept: KeptInFp32) -> tuple[Program, PrecisionRecord]:
    module, (record,) = run_passes(program.module, [CastPrecision(dtype, **asdict(kept))])
    return replace(program, module=module), PrecisionRecord(dtype, kept, cast=record)


def _error(judge: Judge, program: Program) -> float:
    error = judge.score(program.module).error(judge.metric)
    return error if math.isfinite(error) else math.inf


def _cheapest(errors: Sequence[float]) -> int:
    """The first candidate that is about as good as the best."""
    return next(place for place, error in enumerate(errors) if error <= TOLERANCE * min(errors))
