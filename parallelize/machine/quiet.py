"""Loggers of libraries that tell on the log what they raise as well, held back while they are called.

Only these libraries' loggers are: the user's model may log while it is captured, and so may other threads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_SILENT = logging.CRITICAL + 1


@contextmanager
def quiet_logs(*libraries: str) -> Iterator[None]:
    """Hold back the records of some libraries, torch where none is named.

    A logger without a level takes that of its parent, so loggers that are made meanwhile are held back too.
    """
    roots = libraries or ("torch",)
    loggers = [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and name.split(".")[0] in roots
    ]
    loggers.extend(logging.getLogger(root) for root in roots)
    before = {logger: logger.level for logger in loggers}
    for logger, level in before.items():
        if level or logger.name in roots:
            logger.setLevel(_SILENT)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
