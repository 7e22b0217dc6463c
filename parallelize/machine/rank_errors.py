"""What a rank says of the end of another one, and what it tells of its own."""

from __future__ import annotations

from passes.errors import EnvironmentLackError, ParallelizeError

BUG = 4


class LostRankError(EnvironmentLackError):
    """Another rank is gone, and this one speaks for those that are left."""

    is_for_all = True


class RankError(ParallelizeError):
    """Another rank raised; the exit code is that of its error."""

    def __init__(self, message: str, hint: str, code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = code


def is_of_others(error: RuntimeError) -> bool:
    """Whether torch.distributed could not reach another rank; gloo has no class of its own for that."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def exit_code(error: BaseException) -> int:
    """What a process ends with that ends by an error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return int(getattr(error, "exit_code", BUG if isinstance(error, Exception) else 130))


def told(error: Exception, code: int) -> tuple[str, str, int]:
    """What rank 0 is to say of an error."""
    hint = getattr(error, "hint", None)
    if hint is not None:
        return str(error), str(hint), code
    return f"{type(error).__name__}: {error}", "This is a bug; run again with --debug and report what it prints.", code
