"""How long ONNX files take in ONNX Runtime on the CPU, in turn at batch 1.

All are open at once while they are small: A B C A B C ... Larger ones are loaded anew for each of a few turns, so that
never more than one is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.data import Samples
from parallelize.export.weight_files import size_of
from parallelize.machine.latency import Latency
from parallelize.machine.mapped import let_go
from parallelize.measuring.timing import latencies, latencies_of_files

AT_ONCE = 1 << 30  # bytes of files that are open at a time


def onnx_latencies(
    files: Mapping[str, Path], samples: Samples, rounds: int, threads: int
) -> tuple[dict[str, Latency], bool]:
    """Time all files, by name.

    Args:
        files: as `write_onnx` wrote them.
        samples: of which the first are run.
        rounds: calls of each that are counted.
        threads: inside an operator.

    Returns:
        Latencies, and whether the files were loaded anew for each turn.
    """
    let_go()
    openers = {name: partial(OnnxRuntime, path, threads) for name, path in files.items()}
    reloaded = sum(map(size_of, files.values())) > AT_ONCE
    if reloaded:
        return latencies_of_files(openers, samples, rounds), True
    return latencies({name: opened() for name, opened in openers.items()}, samples, rounds), False
