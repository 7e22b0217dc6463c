from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.sources import SOURCES, fingerprint, require
from benchmarks.sources.debian import LIST
from benchmarks.sources.python_package import PythonPackage
from benchmarks.sources.source import RECORD, Source, run
from passes.errors import EnvironmentLackError, ParallelizeError

CONTENT = "weights"
SHA256 = hashlib.sha256(CONTENT.encode()).hexdigest()
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fetch.py"


@dataclass(frozen=True)
class _Given(Source):
    content: str = CONTENT
    breaks: bool = False

    def download(self, scratch: Path) -> Path:
        file = scratch / "file"
        file.write_text(self.content)
        return file

    def unpack(self, file: Path, into: Path) -> None:
        (into / "weights.bin").write_bytes(file.read_bytes())
        if self.breaks:
            raise KeyboardInterrupt


def _source(**changes: object) -> _Given:
    return _Given(**{"name": "given", "what": "w", "licence": "MIT", "megabytes": 1, "sha256": SHA256, **changes})


def test_a_fetched_source_is_whole_and_recorded(tmp_path: Path) -> None:
    source = _source()
    assert not source.is_fetched(tmp_path)
    assert source.fetch(tmp_path) == ""
    assert source.is_fetched(tmp_path)
    assert (require("given", tmp_path) / "weights.bin").read_text() == CONTENT
    assert json.loads((tmp_path / "given" / RECORD).read_text())["licence"] == "MIT"
    assert fingerprint("given", tmp_path) == SHA256


def test_another_sha256_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match=f"has the SHA-256 [0-9a-f]{{64}}, not {SHA256}"):
        _source(content="tampered").fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_fetch_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _source(breaks=True).fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_record_is_not_complete_and_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "half").touch()
    with pytest.raises(EnvironmentLackError, match="'given' is not in") as caught:
        require("given", tmp_path)
    assert caught.value.hint == "Run `python benchmarks/fetch.py given`."
    _source().fetch(tmp_path)
    assert sorted(path.name for path in require("given", tmp_path).iterdir()) == [RECORD, "weights.bin"]


def test_another_debian_list_is_told_but_taken() -> None:
    source = SOURCES["debian"]
    assert source.check(source.sha256) == ""
    assert "another Debian release" in source.check("0" * 64)


def _package(**changes: object) -> PythonPackage:
    basics = {"name": "p", "what": "w", "licence": "MIT", "megabytes": 1, "sha256": "", "requirement": "p==1"}
    return PythonPackage(**{**basics, "members": ("p/deep/data.txt",), **changes})


def test_members_of_a_wheel_are_unpacked_flat(tmp_path: Path) -> None:
    archive = tmp_path / "p-1-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("p/deep/data.txt", "hello")
        wheel.writestr("p/other.txt", "no")
    into = tmp_path / "into"
    into.mkdir()
    _package().unpack(archive, into)
    assert [path.name for path in into.iterdir()] == ["data.txt"]
    assert (into / "data.txt").read_text() == "hello"


def test_members_of_a_source_archive_are_unpacked_flat(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("hello")
    archive = tmp_path / "p-1.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "data.txt", "p/deep/data.txt")
    into = tmp_path / "into"
    into.mkdir()
    _package().unpack(archive, into)
    assert (into / "data.txt").read_text() == "hello"


@pytest.mark.parametrize("suffix", [".whl", ".tar.gz"])
def test_a_missing_member_is_named(tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"p-1{suffix}"
    if suffix == ".whl":
        zipfile.ZipFile(archive, "w").close()
    else:
        tarfile.open(archive, "w:gz").close()
    with pytest.raises(ParallelizeError, match=r"p-1\S* holds no file p/deep/data\.txt"):
        _package().unpack(archive, tmp_path)


def test_a_program_that_is_absent_or_fails_is_told_in_a_sentence() -> None:
    with pytest.raises(EnvironmentLackError, match="'x' cannot be fetched: no-such-program is not installed"):
        run(["no-such-program"], "x", "Do this.")
    fails = [sys.executable, "-c", "import sys; sys.exit('first\\nERROR: no network.')"]
    with pytest.raises(EnvironmentLackError, match=r"'x' cannot be fetched: no network\.$") as caught:
        run(fails, "x", "Do this.")
    assert caught.value.hint == "Do this."
    with pytest.raises(EnvironmentLackError, match="exit code 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"], "x", "Do this.")


def test_every_source_tells_its_licence_and_pins_its_hash() -> None:
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.licence
        assert source.megabytes > 0
        assert len(bytes.fromhex(source.sha256)) == 32


def _fetch(cache: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PARALLELIZE_BENCHMARK_CACHE": str(cache)}
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_script_lists_refuses_and_does_not_fetch_again(tmp_path: Path) -> None:
    assert "not here" in _fetch(tmp_path, "--list").stdout
    unknown = _fetch(tmp_path, "debian", "nonsense")
    assert unknown.returncode == 2
    assert "There is no source 'nonsense'." in unknown.stderr
    assert not (tmp_path / "debian").exists()
    (tmp_path / "debian").mkdir()
    for name in (RECORD, LIST):
        (tmp_path / "debian" / name).touch()
    assert _fetch(tmp_path, "debian").stdout == "debian is here.\n"
