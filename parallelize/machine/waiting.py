"""How the threads of an operator wait for the next one: asleep, unless the environment says otherwise.

torch computes on the threads of OpenMP. By default these spin between operators, in case that the next one comes at
once, and take the cores from whatever else would run there, the thread that they wait for included. Where operators
are small and others use the cores as well, that costs more than it gains.

Libraries of OpenMP read this once, when they are loaded: it must be said before torch is imported.
"""

from __future__ import annotations

from collections.abc import MutableMapping

ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # to every library, and to that of LLVM and Intel
_OTHERS = ("GOMP_SPINCOUNT", "KMP_LIBRARY")


def wait_asleep(environment: MutableMapping[str, str]) -> None:
    """Let threads sleep where the user has not said how they shall wait.

    Args:
        environment: of this process, such as os.environ; it is changed.
    """
    if not any(name in environment for name in (*ASLEEP, *_OTHERS)):
        environment.update(ASLEEP)
