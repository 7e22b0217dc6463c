"""What the library says while it works: its last complaints for our errors, its final plan for the list of layers."""

from __future__ import annotations

from collections import deque
from typing import Any

KEPT = 20  # complaints
_PLAN = "Layers:\nName:"  # a verbose message that begins so lists the layers of the finished engine


def make_logger(module: Any) -> Any:
    """A logger for this library, an `ILogger` with these attributes.

    complaints: the last errors and warnings, each one line.
    errors: the last errors alone.
    plans: the verbose listings of finished engines, as text.
    """
    severity = module.ILogger.Severity

    class KeepingLogger(module.ILogger):  # type: ignore[misc]  # a base of the library that is in use
        """Keeps what we show; prints nothing."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.complaints: deque[str] = deque(maxlen=KEPT)
            self.errors: deque[str] = deque(maxlen=KEPT)
            self.plans: list[str] = []

        def log(self, level: Any, text: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(_one_line(text))
            if level in (severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING):
                self.complaints.append(_one_line(text))
            elif _PLAN in text[:200]:
                self.plans.append(text)

    return KeepingLogger()


def last_words(logger: Any) -> str:
    """The last error that the library gave, for the end of a sentence; empty where it gave none."""
    return logger.errors[-1].rstrip(".") if logger.errors else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
