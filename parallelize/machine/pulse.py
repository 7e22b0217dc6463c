"""Whether the other ranks live: every second each sends its state to rank 0, which answers with its own.

A process that ends closes its connections, so the others know at once; one that is stopped, or whose machine is gone,
is missed after some seconds. The messages are two numbers, a state and an exit code, sent by gloo. Whoever notices an
end is told of it once, from a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ALIVE, FAILED, OVER = 0, 1, 2
BEAT = 1.0  # seconds between two messages
LIMIT = 15.0  # seconds after which a rank that sends nothing counts as dead


@dataclass(frozen=True)
class Ending:
    """Why the ranks cannot go on together.

    Attributes:
        rank: whose end it is.
        state: FAILED where it raised, OVER where rank 0 is done; None where it is gone without a word.
        code: the exit code that it told.
    """

    rank: int
    state: int | None
    code: int = 0


class Pulse:
    """The threads of one rank that keep in touch: rank 0 has one for each other rank, each other rank has one."""

    def __init__(self, rank: int, size: int, told: Callable[[Ending], None]) -> None:
        self._state, self._code = ALIVE, 0
        self._changed = threading.Event()
        self._told = told
        run, peers = (self._answer, range(1, size)) if rank == 0 else (self._send, range(1))
        self._threads = [
            threading.Thread(target=run, args=(peer,), name=f"pulse of rank {peer}", daemon=True) for peer in peers
        ]
        for thread in self._threads:
            thread.start()

    def say(self, state: int, code: int = 0) -> None:
        """Let the next messages tell another state; a code that was told once stays."""
        self._code, self._state = self._code or code, state
        self._changed.set()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until no thread listens any more, which after an end is told takes LIMIT seconds at most."""
        for thread in self._threads:
            thread.join(seconds)

    def _answer(self, peer: int) -> None:
        """On rank 0: answer one other rank until either is through."""
        while True:
            try:
                state, code = self._received(peer)
                said, said_code = self._state, self._code
                self._sent(peer, said, said_code)
            except RuntimeError:  # what gloo raises for a connection that is closed, or silent for too long
                self._told(Ending(peer, None))
                return
            if state == FAILED and said == ALIVE:
                self._told(Ending(peer, state, code))
            if said == OVER:
                return

    def _send(self, peer: int) -> None:
        """On another rank: send and read the answer until rank 0 is through."""
        while True:
            try:
                self._sent(peer, self._state, self._code)
                state, code = self._received(peer)
            except RuntimeError:
                self._told(Ending(peer, None))
                return
            if state == OVER:
                self._told(Ending(peer, state, code))
                return
            self._changed.wait(BEAT)
            self._changed.clear()

    @staticmethod
    def _sent(peer: int, state: int, code: int) -> None:
        import torch
        from torch import distributed

        _waited(distributed.isend(torch.tensor([state, code]), peer))

    @staticmethod
    def _received(peer: int) -> tuple[int, int]:
        import torch
        from torch import distributed

        message: Tensor = torch.zeros(2, dtype=torch.int64)
        _waited(distributed.irecv(message, peer))
        state, code = message.tolist()
        return int(state), int(code)


def _waited(work: object) -> None:
    work.wait(timedelta(seconds=LIMIT))  # type: ignore[attr-defined]
