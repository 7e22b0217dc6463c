"""An engine and its sidecar are replaced whole or stay as they were, whatever ends the writing."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from parallelize.backends.tensorrt import build as building
from parallelize.backends.tensorrt.build import build, write
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.sidecar import read_sidecar, sidecar_path
from passes.errors import EnvironmentLackError
from tests.parallelize.backends.tensorrt.sidecars import CONTENT, FULL, put
from tests.parallelize.onnx_models import mlp

NEW = b"a newer engine"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An engine with its sidecar."""
    engine = tmp_path / "m.engine"
    put(engine)
    return engine


def _assert_old(engine: Path, left: int = 2) -> None:
    assert engine.read_bytes() == CONTENT
    assert read_sidecar(engine) == FULL
    assert len(list(engine.parent.iterdir())) == left


def test_both_are_written_and_nothing_else(old: Path) -> None:
    newer = replace(FULL, engine_sha256="1" * 64)
    write(old, NEW, newer)
    assert old.read_bytes() == NEW
    assert sidecar_path(old).read_text() == newer.to_json()
    assert len(list(old.parent.iterdir())) == 2


def test_a_reader_of_the_old_engine_keeps_it_whole(old: Path) -> None:
    with old.open("rb") as reader:
        write(old, NEW, FULL)
        assert reader.read() == CONTENT


@pytest.mark.parametrize("method", ["write_bytes", "write_text"])
def test_a_full_disk_leaves_the_old_engine_and_its_sidecar(
    method: str, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes | str) -> NoReturn:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, method, full)
    with pytest.raises(EnvironmentLackError) as caught:
        write(old, NEW, FULL)
    monkeypatch.undo()
    assert str(caught.value) == f"The engine cannot be written to {old}: No space left on device."
    assert caught.value.hint == "Make room, or choose a place that you may write to."
    assert caught.value.exit_code == 3
    _assert_old(old)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("name", ["m.engine", "m.engine.json"])
def test_a_device_that_is_full_leaves_the_old_engine_and_its_sidecar(name: str, old: Path) -> None:
    (old.parent / f".{name}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(EnvironmentLackError, match=r"No space left on device\.$"):
        write(old, NEW, FULL)
    _assert_old(old)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
@pytest.mark.parametrize("method", ["write_bytes", "write_text"])
def test_a_killed_run_leaves_the_old_engine_and_its_sidecar(method: str, old: Path) -> None:
    child = os.fork()
    if child == 0:
        original = getattr(Path, method)

        def killed(path: Path, content: bytes | str) -> NoReturn:
            original(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
            os._exit(1)

        setattr(Path, method, killed)
        write(old, NEW, FULL)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    _assert_old(old, left=4 if method == "write_text" else 3)  # and what the killed run could not remove


def test_an_interrupted_build_leaves_the_old_engine_and_its_sidecar(old: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    onnx = mlp(old.parent / "m.onnx")

    def interrupt(what: str, share: float | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(onnx, old, "tensorrt-rtx", BuildOptions(compute_capabilities=("8.9",)), report=interrupt)
    onnx.unlink()
    _assert_old(old)


def test_a_folder_that_is_not_there_is_refused_before_the_builder_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(building, "_build", lambda *_: pytest.fail("the builder was called"))
    target = tmp_path / "none" / "m.engine"
    with pytest.raises(EnvironmentLackError) as caught:
        build(mlp(tmp_path / "m.onnx"), target, "tensorrt-rtx")
    assert str(caught.value) == f"The engine cannot be written to {target}: there is no folder {target.parent}."
