"""How long a network takes where it is going to run: in turn with the serial one, on the backend that was asked for.

    ONNX Runtime    program -> ONNX -> session on the CPU
    TensorRT        program -> cast -> ONNX -> engine -> GPU

Both are timed at batch 1 as everything here is (measuring.timing). What stays in fp32 of a cast is chosen once, on the
serial network.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from parallelize.backends.backend import ONNX
from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.backends.runner import Runner
from parallelize.backends.runner_options import RunnerOptions
from parallelize.backends.tensorrt.backend import EngineBackend
from parallelize.baselines.networks import SERIAL
from parallelize.conversion.engine_options import HALF
from parallelize.conversion.engines import ROUNDS, SAMPLES, building
from parallelize.conversion.job import Job
from parallelize.conversion.pace import Timed
from parallelize.export.onnx import write_onnx
from parallelize.export.precision import KeptInFp32, cast
from parallelize.machine.device import CPU
from parallelize.measuring.timing import latencies
from parallelize.models.placement import placed
from parallelize.models.program import Program
from parallelize.predicting.asked_for import AskedFor
from parallelize.terminal.progress import Report
from parallelize.terminal.words import counted

OURS = "ours"


def foreseen(job: Job, target: AskedFor) -> Callable[[Program, int], Timed]:
    """The same for a GPU that is not here: predicted, not timed."""
    samples = job.prepared.data.judge
    serial = target.milliseconds(job.prepared.program, samples)
    return lambda program, depth: Timed(depth, serial, target.milliseconds(program, samples))


class Stopwatch:
    """Times networks of one job."""

    def __init__(self, job: Job, folder: Path, report: Report) -> None:
        """Time nothing yet.

        Args:
            job: model, data, backend, precision and rounds.
            folder: for ONNX files and engines.
            report: told what is being done.
        """
        self.job, self.folder, self.report = job, folder, report
        self._kept: KeptInFp32 | None = None

    def __call__(self, program: Program, depth: int) -> Timed:
        """Time a program that is so many blocks deep.

        Raises:
            EnvironmentLackError: the backend does not run here.
            ParallelizeError: no engine can be built, or it takes no batch of 1.
        """
        self.report(f"timing {counted(depth, 'block')} deep", None)
        job = self.job
        rounds = job.options.rounds if job.choice.builder is None else ROUNDS
        with ExitStack() as stack:
            runners = {
                SERIAL: self._runner(job.prepared.program, SERIAL, stack),
                OURS: self._runner(program, OURS, stack),
            }
            times = latencies(runners, job.prepared.data.judge.on(CPU), rounds)
        return Timed(depth, times[SERIAL].median, times[OURS].median)

    def _runner(self, program: Program, name: str, stack: ExitStack) -> Runner:
        builder, onnx = self.job.choice.builder, self.folder / f"{name}{ONNX.suffix}"
        if name == SERIAL and onnx.exists():
            made = None
        else:
            for file in self.folder.glob(f"{name}.*"):
                file.unlink()
            made = program if builder is None else self._cast(program)
            write_onnx(made, onnx)
        if builder is None:
            return OnnxRuntime(onnx, self.job.options.threads)
        return self._engine(onnx, builder, stack, is_new=made is not None)

    def _cast(self, program: Program) -> Program:
        """In the precision of the engine."""
        precision, data = self.job.options.engine.computes_in, self.job.prepared.data
        if precision not in HALF:
            return program
        program = placed(program, CPU)
        if self._kept is None:
            every = (data.fit.on(CPU), data.held_out.on(CPU), data.judge.on(CPU))
            made, record = cast(program, HALF[precision], every[1].head(SAMPLES), every=every)
            self._kept = record.kept
            return made
        return cast(program, HALF[precision], None, [self._kept])[0]

    def _engine(self, onnx: Path, builder: EngineBackend, stack: ExitStack, *, is_new: bool) -> Runner:
        file = onnx.with_suffix(builder.builds.suffix)
        if is_new:
            prepared = self.job.prepared
            options = building(self.job.options.engine, prepared.program, prepared.data.judge)
            builder.build(onnx, file, options, report=self.report)
        return stack.enter_context(builder.opened(str(file), builder.builds, RunnerOptions()))
