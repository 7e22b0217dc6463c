"""Curves for TensorBoard, and one sentence where its package is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typing_extensions import Self

from paraformer.errors import AbsentLibraryError
from paraformer.training.logs import add_all, logs_in


class Writer:
    """Takes what a SummaryWriter takes."""

    def __init__(self, folder: Path | None = None, purge_step: int | None = None) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.numbers: list[tuple[str, float, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.numbers.append((tag, scalar_value, global_step))


def _installed(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)


def test_numbers_that_there_are_are_written_at_their_step() -> None:
    writer = Writer()
    add_all(writer, {"test/top1": 0.5, "held_out/loss": None}, 7)
    add_all(None, {"test/top1": 0.5}, 7)
    assert writer.numbers == [("test/top1", 0.5, 7)]


@pytest.mark.parametrize(("done", "purged"), [(0, None), (8, 9)])
def test_a_run_that_goes_on_drops_what_a_stopped_one_wrote_behind_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, done: int, purged: int | None
) -> None:
    module = ModuleType("tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    _installed(monkeypatch, module)
    with logs_in(tmp_path, done) as logs:
        assert isinstance(logs, Writer)
        assert (logs.folder, logs.purge_step) == (tmp_path, purged)


def test_without_a_folder_there_are_no_logs() -> None:
    with logs_in(None, 0) as logs:
        assert logs is None


def test_an_absent_package_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _installed(monkeypatch, None)
    with (
        pytest.raises(AbsentLibraryError, match=r"the package tensorboard, which is not installed\.$") as caught,
        logs_in(tmp_path, 0),
    ):
        pass
    assert (caught.value.exit_code, "parallelize[logs]" in caught.value.hint) == (3, True)


def test_the_package_itself_writes_a_file_of_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with logs_in(tmp_path, 0) as logs:
        add_all(logs, {"train/loss": 0.5}, 1)
    assert [path for path in tmp_path.iterdir() if "tfevents" in path.name]
