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
from parallelize.export.weight_files import SharedWeights
from parallelize.machine.device import CPU
from parallelize.measuring.onnx_latency import onnx_latencies
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
        self._shared = SharedWeights()

    def __call__(self, program: Program, depth: int) -> Timed:
        """Time a program that is so many blocks deep.

        Raises:
            EnvironmentLackError: the backend does not run here.
            ParallelizeError: no engine can be built, or it takes no batch of 1.
        """
        self.report(f"timing {counted(depth, 'block')} deep", None)
        networks = {SERIAL: self.job.prepared.program, OURS: program}
        builder, samples = self.job.choice.builder, self.job.prepared.data.judge.on(CPU)
        if builder is None:
            files = {name: self._written(network, name)[0] for name, network in networks.items()}
            times, _ = onnx_latencies(files, samples, self.job.options.rounds, self.job.options.threads)
        else:
            with ExitStack() as stack:
                runners = {name: self._engine(network, name, builder, stack) for name, network in networks.items()}
                times = latencies(runners, samples, ROUNDS)
        return Timed(depth, times[SERIAL].median, times[OURS].median)

    def _written(self, program: Program, name: str) -> tuple[Path, bool]:
        """The ONNX file of a network, and whether it is new: that of the serial one is written once."""
        onnx = self.folder / f"{name}{ONNX.suffix}"
        if name == SERIAL and onnx.exists():
            return onnx, False
        for file in self.folder.glob(f"{name}.*"):
            file.unlink()
        if self.job.choice.builder is None:
            write_onnx(program, onnx, shared=self._shared)
        else:
            write_onnx(self._cast(program), onnx)
        return onnx, True

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

    def _engine(self, program: Program, name: str, builder: EngineBackend, stack: ExitStack) -> Runner:
        onnx, is_new = self._written(program, name)
        file = onnx.with_suffix(builder.builds.suffix)
        if is_new:
            prepared = self.job.prepared
            options = building(self.job.options.engine, prepared.program, prepared.data.judge)
            builder.build(onnx, file, options, report=self.report)
        return stack.enter_context(builder.opened(str(file), builder.builds, RunnerOptions()))
