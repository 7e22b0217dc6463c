"""Several processes as the ranks of `torch.distributed`: measurements go through its store, signs of life by gloo.

Rank 0 writes the items of a batch into the store; a counter there hands each to whoever asks first, and the values come
back the same way. These are a few numbers in the host's memory, whatever device has measured them, so they need no
NCCL; models and data are never sent.

Nobody waits for a process that is gone:

    killed, or its machine is         all others end within seconds, with one sentence of rank 0, or of rank 1 for it
    raised                            rank 0 raises the same, with the rank in front where it did not find so itself
    rank 0 raised                     the others end silently with its exit code
    asked to end (SIGTERM)            as torchrun does with the others once one has ended: the first end is told
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn, TypeVar

from parallelize.machine.launch import Launch
from parallelize.machine.pulse import FAILED, LIMIT, OVER, Ending, Pulse
from parallelize.machine.rank_errors import LostRankError, RankError, exit_code, is_of_others, told
from parallelize.machine.ranks import Ranks
from passes.errors import EnvironmentLackError, ParallelizeError

T = TypeVar("T")
R = TypeVar("R")

JOIN = 120.0  # seconds in which all ranks must have come together
FIRST_WORD = 3.0  # seconds that rank 0 has to find by itself what another rank has found wrong
UNWIND = 10.0  # seconds that a process has to clean up once it knows that another one is gone
LEADERS_ANSWER, OTHERS_ANSWER = 2.0, 4.0  # seconds from a SIGTERM in which the end of another rank may be its reason
LEAST_WAIT, MOST_WAIT = 0.002, 0.1  # seconds between two looks into the store


class _Ended(BaseException):
    """Raised in the main thread, at whatever it does, when the ranks cannot go on together."""


@contextlib.contextmanager
def joined(launch: Launch) -> Iterator[Ranks]:
    """Come together with the other ranks, and part from them in the end.

    Args:
        launch: which of them this process is.

    Raises:
        EnvironmentLackError: not all have come.
        LostRankError: one is gone.
        RankError: one raised.
        SystemExit: on another rank than 0, when rank 0 has failed; it has said why.
    """
    ranks = JoinedRanks(launch)
    with ranks.interruptible():
        try:
            ranks.join()
            yield ranks
        except _Ended:
            ranks.end()
        except BaseException as error:
            ranks.fail(error)
            raise
        finally:
            ranks.part()


class JoinedRanks(Ranks):
    """This process among the ranks."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.rank, self.size, self.local = launch.rank, launch.size, launch.local
        self._measures: dict[str, Callable[[Any], Any]] = {}
        self._batches = 0
        self._pulse: Pulse | None = None
        self._ending: Ending | None = None
        self._ended, self._parted = threading.Event(), threading.Event()
        self._is_leaving = self._is_alone = self._is_interruptible = self._has_failed = False

    # measuring --------------------------------------------------------------------------------------------------------

    def spread(self, name: str, measure: Callable[[T], R]) -> Callable[[Sequence[T]], Iterator[R]]:
        """See `Ranks`."""
        self._measures[name] = measure
        return partial(self._shared, name)

    def _shared(self, name: str, items: Sequence[T]) -> Iterator[Any]:
        measure, count = self._measures[name], len(items)
        if self._is_alone or count < 2:
            yield from map(measure, items)
            return
        batch, self._batches = self._batches, self._batches + 1
        self._write(f"batch {batch}", (name, list(items)))
        own: dict[int, Any] = {0: measure(items[0])}
        try:
            for number in range(count):
                while number not in own and not self._has(f"value {batch} {number}"):
                    taken = self._take(batch)
                    if taken >= count:
                        break
                    own[taken] = measure(items[taken])
                yield own.pop(number) if number in own else self._read(f"value {batch} {number}")
        finally:
            if not self._is_leaving:
                self._take(batch, count)

    def serve(self) -> None:
        """See `Ranks`."""
        for batch in range(sys.maxsize):
            name, items = self._read(f"batch {batch}")
            while (number := self._take(batch)) < len(items):
                self._write(f"value {batch} {number}", self._measures[name](items[number]))

    def require_same(self, identity: Callable[[], str]) -> None:
        """See `Ranks`."""
        own = identity()
        if self.rank == 0:
            self._write("identity", own)
        elif self._read("identity") != own:
            raise ParallelizeError(
                f"Rank {self.rank} has another model, other data or options than rank 0.",
                "Give all ranks the same files, and seed what is random in the model.",
            )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """See `Ranks`."""
        try:
            yield
        except RuntimeError as error:
            if not is_of_others(error) or not self._ended.wait(LIMIT + 1):
                raise
            raise _Ended from error

    def dismiss(self) -> None:
        """See `Ranks`."""
        self.part()

    # the store --------------------------------------------------------------------------------------------------------

    @property
    def _store(self) -> Any:
        from torch.distributed import distributed_c10d

        return distributed_c10d._get_default_store()

    def _write(self, key: str, value: object) -> None:
        with self._reached():
            self._store.set(key, pickle.dumps(value))

    def _has(self, key: str) -> bool:
        with self._reached():
            return bool(self._store.check([key]))

    def _read(self, key: str) -> Any:
        """The value of a key, as soon as it is there; signals are noticed meanwhile."""
        wait = LEAST_WAIT
        while not self._has(key):
            time.sleep(wait)
            wait = min(1.1 * wait, MOST_WAIT)
        with self._reached():
            return pickle.loads(self._store.get(key))  # noqa: S301  (one of our own processes has written it)

    def _take(self, batch: int, count: int = 1) -> int:
        """The number of the next item of a batch that nobody has taken; the first is left to rank 0."""
        with self._reached():
            return int(self._store.add(f"taken {batch}", count))

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Where the store is gone, so is rank 0, or the launcher."""
        if self._ended.is_set():
            raise _Ended
        try:
            yield
        except RuntimeError as error:
            if not self._ended.wait(LIMIT + 1):
                raise EnvironmentLackError(
                    f"The store of torch.distributed at {self.launch.address} is gone.", "Start all ranks again."
                ) from error
            raise _Ended from error

    # coming and going -------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Wait until all are there, in a thread, so that signals are noticed."""
        failed: list[Exception] = []
        thread = threading.Thread(target=self._join, args=(failed,), daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.05)
        if failed:
            raise EnvironmentLackError(
                f"Rank {self.rank} waited in vain for all {self.size} ranks at {self.launch.address}:"
                f" {str(failed[0]).splitlines()[0][:200]}",
                "See what the other ranks say; MASTER_ADDR and MASTER_PORT must be the same for all, and free.",
            )
        self._pulse = Pulse(self.rank, self.size, self._told)

    def _join(self, failed: list[Exception]) -> None:
        from torch import distributed

        try:
            distributed.init_process_group(
                "gloo", rank=self.rank, world_size=self.size, timeout=timedelta(seconds=JOIN)
            )
        except (RuntimeError, ValueError, OSError) as error:
            failed.append(error)

    def fail(self, error: BaseException) -> None:
        """Tell rank 0 what was raised here, unless it finds the same by itself; on rank 0, let the others end."""
        code = exit_code(error)
        self._is_leaving = self._has_failed = True
        if self._pulse is None:
            return
        if self.rank == 0:
            self._pulse.say(OVER, code)
            return
        if isinstance(error, Exception) and not self._ended.wait(FIRST_WORD):
            with contextlib.suppress(RuntimeError):  # where rank 0 is gone too, nobody is to be told
                self._store.set(f"failed {self.rank}", pickle.dumps(told(error, code)))
        self._pulse.say(FAILED, code)
        self._pulse.wait(UNWIND)

    def part(self) -> None:
        """Leave, once all that are alive know."""
        pulse, self._pulse, self._is_leaving, self._is_alone = self._pulse, None, True, True
        self._parted.set()
        if pulse is None:
            return
        from torch import distributed

        if self.rank == 0:
            pulse.say(OVER)
        pulse.wait()
        distributed.destroy_process_group()

    def end(self) -> None:
        """Raise what the end of the ranks is for this one; nothing where rank 0 is done."""
        assert self._ending is not None
        ending, self._is_leaving = self._ending, True
        self._has_failed = ending.state != OVER or ending.code != 0
        if ending.state == OVER:
            if ending.code:
                sys.exit(ending.code)
            return
        error = self._error(ending)
        if self._pulse is not None and self.rank == 0:
            self._pulse.say(OVER, error.exit_code)
        if self.rank > 1:
            sys.exit(error.exit_code)
        raise error

    def _error(self, ending: Ending) -> ParallelizeError:
        if ending.state == FAILED and self._store.check([f"failed {ending.rank}"]):
            message, hint, code = pickle.loads(self._store.get(f"failed {ending.rank}"))  # noqa: S301
            return RankError(f"Rank {ending.rank} of {self.size} failed: {message}", hint, code)
        gone = f"with exit code {ending.code}" if ending.state == FAILED else "without a word"
        return LostRankError(
            f"Rank {ending.rank} of {self.size} is gone {gone}, so the others have ended too.",
            "Look whether it was killed or its memory ran out; the same command goes on with what was kept.",
        )

    # interrupting -----------------------------------------------------------------------------------------------------

    def _told(self, ending: Ending) -> None:
        """From a thread of the pulse: interrupt the main thread, and see that it ends."""
        is_first, self._ending = self._ending is None, self._ending or ending
        self._ended.set()
        if not is_first:
            return
        if self._is_interruptible and not self._is_leaving:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        threading.Thread(target=self._see_to_the_end, args=(ending,), daemon=True).start()

    def _see_to_the_end(self, ending: Ending) -> None:
        """End the process where the main thread does not come round to it; the others need not wait for that."""
        error = self._error(ending) if ending.state != OVER else None
        if error is not None and self.rank == 0 and self._pulse is not None:
            self._pulse.say(OVER, error.exit_code)
        if self._parted.wait(UNWIND):
            return
        if error is not None and self.rank < 2:
            os.write(2, f"error: {error}\nhint:  {error.hint}\n".encode())
        os._exit(ending.code if error is None else error.exit_code)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let the end of another rank interrupt this one, and prefer its sentence to a mere SIGTERM."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: Any) -> None:
            if self._is_alone and not self._has_failed:
                _ask(before, number, frame)
            if self._is_leaving:
                return
            self._is_leaving = True
            if self._pulse is None and self.rank == 0:
                raise EnvironmentLackError(
                    f"Rank 0 was ended before all {self.size} ranks had come together.", "See what the others say."
                )
            if self._ended.wait(LEADERS_ANSWER if self.rank == 0 else OTHERS_ANSWER):
                self._has_failed = True
                raise _Ended
            _ask(before, number, frame)

        signal.signal(signal.SIGTERM, handle)
        self._is_interruptible = True
        try:
            yield
        except BaseException:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process ends, and what it has to say is not cut short
            raise
        signal.signal(signal.SIGTERM, before)


def _ask(handler: Any, number: int, frame: Any) -> NoReturn:
    """What another handler would have done; by default the process ends, with its cleaning up."""
    if callable(handler):
        handler(number, frame)
    sys.exit(128 + number)
