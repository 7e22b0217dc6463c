"""Only the loggers of libraries are held back."""

from __future__ import annotations

import logging

import pytest

from parallelize.machine.quiet import quiet_logs


def test_a_library_is_held_back_and_everybody_else_logs(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("torch.known").setLevel(logging.DEBUG)
    with quiet_logs():
        logging.getLogger("torch.known").error("held back")
        logging.getLogger("torch.made_meanwhile").error("held back")
        logging.getLogger("users.model").error("heard")
    logging.getLogger("torch.known").error("heard")
    assert [record.message for record in caplog.records] == ["heard", "heard"]
    assert logging.getLogger("torch.known").level == logging.DEBUG
    assert not logging.root.manager.disable
