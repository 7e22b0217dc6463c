"""Where, when and with what numbers were measured."""

from __future__ import annotations

import datetime as dt
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Machine:
    """Where and when numbers were measured.

    Attributes:
        date: ISO 8601 in UTC.
        processor: its name.
        cores: that the system has.
        onnxruntime_threads: that ONNX Runtime computed with.
        system: name and version.
        python: the version.
        parallelize: the version of this project.
        torch: the version.
        onnx: the version.
        onnxruntime: the version.
    """

    date: str
    processor: str
    cores: int | None
    onnxruntime_threads: int
    system: str
    python: str
    parallelize: str
    torch: str
    onnx: str
    onnxruntime: str


def this_machine(threads: int) -> Machine:
    """This machine, now."""
    import onnx
    import onnxruntime
    import torch

    from parallelize import __version__

    return Machine(
        date=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        processor=_processor(),
        cores=os.cpu_count(),
        onnxruntime_threads=threads,
        system=platform.platform(),
        python=platform.python_version(),
        parallelize=__version__,
        torch=str(torch.__version__),
        onnx=onnx.__version__,
        onnxruntime=onnxruntime.__version__,
    )


def machine(threads: int) -> dict[str, Any]:
    """The same as plain values."""
    return asdict(this_machine(threads))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
