"""The library's progress while it builds, as our progress line."""

from __future__ import annotations

from typing import Any

from parallelize.terminal.progress import Report


def make_monitor(module: Any, report: Report) -> Any:
    """An `IProgressMonitor` that reports the outermost phase's share and the phase that runs now.

    A build is not stopped through it: an interrupt ends the process, and outputs are written at the end only.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # a base of the library that is in use
        """Phases nest; the first that starts is the whole build."""

        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self._outer: str | None = None
            self._steps = 1
            self._done = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._outer, self._steps, self._done = phase_name, max(num_steps, 1), 0
            report("building the engine", self._done / self._steps)

        def phase_finish(self, phase_name: str) -> None:
            if phase_name == self._outer:
                report("building the engine", 1.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self._outer:
                self._done = step + 1
                report("building the engine", min(1.0, self._done / self._steps))
            return True

    return Monitor()
