"""What the environment says of the processes that were started together."""

from __future__ import annotations

import pytest

from parallelize.machine.launch import Launch, is_silent, launched
from passes.errors import ParallelizeError

WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


def test_a_process_among_others_is_told_by_its_environment() -> None:
    assert launched(WHOLE) == Launch(1, 4, 0, "host:29500")
    assert is_silent(WHOLE)
    assert not is_silent({**WHOLE, "RANK": "0"})


def test_started_by_hand_on_one_machine_no_local_number_is_needed() -> None:
    assert launched({name: value for name, value in WHOLE.items() if name != "LOCAL_RANK"}) == Launch(
        1, 4, 1, "host:29500"
    )


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1"}, {**WHOLE, "WORLD_SIZE": "1"}])
def test_a_process_alone_is_told_by_its_environment(environment: dict[str, str]) -> None:
    assert launched(environment) is None
    assert not is_silent(environment)


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_variable_that_is_missing_is_named(missing: str) -> None:
    environment = {name: value for name, value in WHOLE.items() if name != missing}
    with pytest.raises(ParallelizeError, match=f"^WORLD_SIZE is 4, but {missing} is not set.$") as caught:
        launched(environment)
    assert caught.value.hint.startswith("Start the processes with torchrun, or set RANK")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"RANK": "x"}, "RANK is 'x', which is no number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', which is no number"),
        ({"RANK": "4"}, "There is no rank 4 among 4: the first is 0."),
    ],
)
def test_numbers_that_are_none_are_refused(changed: dict[str, str], said: str) -> None:
    with pytest.raises(ParallelizeError, match=said):
        launched({**WHOLE, **changed})
