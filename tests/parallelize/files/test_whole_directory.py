"""The output directory: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from parallelize.files import whole_directory as under_test
from parallelize.files.whole_directory import beside, output_directory
from passes.errors import EnvironmentLackError, ParallelizeError

_CHILD = """
import sys, time
from pathlib import Path
from parallelize.files.whole_directory import output_directory
with output_directory(Path(sys.argv[1]), force=True) as directory:
    (directory / "new.txt").write_text("new")
    print(directory, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A directory from an earlier run."""
    directory = tmp_path / "out"
    (directory / "nested").mkdir(parents=True)
    (directory / "nested" / "old.txt").write_text("old")
    return directory


def test_the_state_of_a_run_lies_beside_its_directory_however_that_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for spelled in ("out.v1", "./out.v1/", str(tmp_path / "a" / ".." / "out.v1")):
        assert beside(Path(spelled), "resume") == tmp_path.resolve() / "out.v1.resume"


def _files(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): p.read_text() for p in sorted(directory.rglob("*")) if p.is_file()}


def _write(path: Path, *, force: bool = False) -> None:
    with output_directory(path, force=force) as directory:
        (directory / "new.txt").write_text("new")


OLD, NEW = {"nested/old.txt": "old"}, {"new.txt": "new"}


def test_what_was_written_is_at_the_path_and_nothing_beside_it(tmp_path: Path) -> None:
    _write(tmp_path / "out")
    assert _files(tmp_path / "out") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_at_the_path_before_the_end(tmp_path: Path) -> None:
    with output_directory(tmp_path / "out", force=False) as directory:
        (directory / "new.txt").write_text("new")
        assert directory.parent == tmp_path
        assert not (tmp_path / "out").exists()
    assert not directory.exists()


def test_directories_on_the_way_are_made(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "b" / "out")
    assert _files(tmp_path) == {"a/b/out/new.txt": "new"}


def test_a_relative_path_is_meant_from_where_the_block_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with output_directory(Path("out"), force=False) as directory:
        (directory / "new.txt").write_text("new")
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert _files(tmp_path) == {"out/new.txt": "new"}


def test_an_existing_directory_is_refused_without_force_and_left_alone(old: Path) -> None:
    with pytest.raises(ParallelizeError, match=r"^The output directory .*/out exists\.$") as caught:
        _write(old)
    assert "--force" in caught.value.hint
    assert caught.value.exit_code == 2
    assert _files(old.parent) == {"out/nested/old.txt": "old"}


def test_force_replaces_an_existing_directory_as_a_whole(old: Path) -> None:
    _write(old, force=True)
    assert _files(old) == NEW
    assert [path.name for path in old.parent.iterdir()] == ["out"]


def test_the_old_directory_is_whole_until_the_new_one_is(old: Path) -> None:
    with output_directory(old, force=True) as directory:
        (directory / "new.txt").write_text("new")
        assert _files(old) == OLD
    assert _files(old) == NEW


def test_force_replaces_where_the_system_cannot_exchange_two_directories(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_exchange", lambda _first, _second: False)
    _write(old, force=True)
    assert _files(old) == NEW
    assert [path.name for path in old.parent.iterdir()] == ["out"]


def test_force_makes_a_directory_that_was_not_there(tmp_path: Path) -> None:
    _write(tmp_path / "out", force=True)
    assert _files(tmp_path / "out") == NEW


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), ParallelizeError("A sentence.", "A hint."), KeyboardInterrupt()]
)
def test_an_error_inside_leaves_the_old_directory_whole_and_nothing_beside_it(old: Path, error: BaseException) -> None:
    def fail() -> None:
        with output_directory(old, force=True) as directory:
            (directory / "new.txt").write_text("new")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert _files(old.parent) == {"out/nested/old.txt": "old"}
    assert [path.name for path in old.parent.iterdir()] == ["out"]


def test_an_error_inside_leaves_no_directory_where_there_was_none(tmp_path: Path) -> None:
    def fail() -> None:
        with output_directory(tmp_path / "out", force=False):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_as_a_lack_of_the_machine_and_leaves_the_old_directory(old: Path) -> None:
    def fill() -> None:
        with output_directory(old, force=True):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(EnvironmentLackError, match=r"^Writing the output failed: No space left on device\.$") as caught:
        fill()
    assert caught.value.exit_code == 3
    assert _files(old.parent) == {"out/nested/old.txt": "old"}
    assert [path.name for path in old.parent.iterdir()] == ["out"]


@contextmanager
def _child_inside(path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that has written half of its output to `path`, and the directory that it writes to."""
    root = Path(__file__).parents[3]
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(path)], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield child, Path(child.stdout.readline().strip())
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_leaves_the_old_directory_whole_and_the_next_run_cleans_up(old: Path, how: signal.Signals) -> None:
    with _child_inside(old) as (child, temporary):
        assert _files(temporary) == NEW
        child.send_signal(how)
        assert child.wait(60) == -how
    assert _files(old) == OLD
    _write(old, force=True)
    assert _files(old) == NEW
    assert [path.name for path in old.parent.iterdir()] == ["out"]


def test_a_killed_run_leaves_no_directory_where_there_was_none(tmp_path: Path) -> None:
    with _child_inside(tmp_path / "out") as (child, _temporary):
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_still_going_on_keeps_its_temporary_directory(old: Path) -> None:
    with _child_inside(old) as (_child, temporary):
        _write(old, force=True)
        assert _files(temporary) == NEW
    assert _files(old) == NEW


def test_what_looks_like_a_leftover_but_has_no_process_number_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / ".out.notes.tmp"
    kept.mkdir()
    _write(tmp_path / "out")
    assert kept.exists()


def test_a_leftover_of_an_earlier_process_of_the_same_number_is_removed(tmp_path: Path) -> None:
    (tmp_path / f".out.{os.getpid()}.tmp").mkdir()
    _write(tmp_path / "out")
    assert _files(tmp_path / "out") == NEW


def test_a_link_to_a_directory_stays_and_what_it_points_to_is_replaced(old: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(old)
    _write(link, force=True)
    assert link.readlink() == old
    assert _files(old) == NEW
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_a_file_at_the_path_is_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for force in (False, True):
        with pytest.raises(ParallelizeError, match=r"/out is a file\.$") as caught:
            _write(tmp_path / "out", force=force)
        assert caught.value.exit_code == 2
    assert (tmp_path / "out").read_text() == "mine"


def test_a_file_in_the_place_of_a_parent_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "out", tmp_path / "file" / "deeper" / "out"):
        with pytest.raises(EnvironmentLackError, match=r"^The output directory .*/out cannot be made: ") as caught:
            _write(path)
        assert caught.value.hint == "Choose a place that you may write to."
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_that_may_not_be_written_to_is_refused_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def refuse(path: Path, *args: object, **options: object) -> None:
        if path.parent == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        make(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refuse)
    for path in (tmp_path / "out", tmp_path / "new" / "out"):
        with pytest.raises(EnvironmentLackError, match=r"/out cannot be made: Permission denied\.$") as caught:
            _write(path)
        assert caught.value.exit_code == 3
        assert caught.value.hint == "Choose a place that you may write to."
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_refused_with_a_hint(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentLackError, match="Permission denied"):
        _write(tmp_path / "out")
    tmp_path.chmod(0o700)
