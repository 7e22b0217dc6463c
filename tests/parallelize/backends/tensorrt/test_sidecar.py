"""What lies beside an engine: read again, refused with a sentence, held against the machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parallelize.backends.tensorrt.sidecar import SCHEMA, Sidecar, check_fits, read_sidecar, sidecar_path
from passes.errors import ParallelizeError
from tests.parallelize.backends.tensorrt.sidecars import CONTENT, FULL, put


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return tmp_path / "model.engine"


def _refusal(engine: Path) -> tuple[str, str]:
    with pytest.raises(ParallelizeError) as caught:
        read_sidecar(engine)
    return str(caught.value), caught.value.hint


def test_a_sidecar_is_read_as_it_was_written(engine: Path) -> None:
    put(engine)
    assert sidecar_path(engine).name == "model.engine.json"
    assert read_sidecar(engine) == FULL


def test_a_sidecar_with_nothing_in_its_optional_fields_is_read_as_it_was_written(engine: Path) -> None:
    empty: dict[str, Any] = {"gpu": None, "cuda": None, "driver": None, "precision": None, "plan": None, "errors": {}}
    written = put(engine, **empty, layers=(), products=(), profiles=(), inputs=(), outputs=(), targets=())
    assert read_sidecar(engine) == written


def test_the_file_states_its_schema_first(engine: Path) -> None:
    put(engine)
    value = json.loads(sidecar_path(engine).read_text())
    assert next(iter(value.items())) == ("schema", SCHEMA)


def test_a_missing_engine_is_refused(engine: Path) -> None:
    assert _refusal(engine)[0] == f"{engine} does not exist."


def test_an_engine_without_a_sidecar_is_refused_because_it_is_code(engine: Path) -> None:
    engine.write_bytes(CONTENT)
    message, hint = _refusal(engine)
    assert message == "model.engine has no model.engine.json beside it, and a serialized engine is code."
    assert "parallelize build" in hint
    assert "--trust-engine" in hint


def _changed(**changes: Any) -> bytes:
    value = json.loads(FULL.to_json())
    value.update(changes)
    return json.dumps({key: field for key, field in value.items() if field is not ...}).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "JSONDecodeError"),
        (FULL.to_json().encode()[:200], "JSONDecodeError"),
        (b"null", "AttributeError"),
        (b"[]", "TypeError"),
        (b"{}", "KeyError 'schema'"),
        (b"\xff\xfe", "can't decode byte"),
        (_changed(profiles=...), "KeyError 'profiles'"),
        (_changed(version=...), "missing 1 required positional argument: 'version'"),
        (_changed(layers=[{"name": "a"}]), "KeyError 'kind'"),
        (_changed(color="red"), "unexpected keyword argument 'color'"),
        (_changed(inputs=[{"name": "x", "shape": [1], "dtype": "float17"}]), "float17"),
        (_changed(inputs=[{"name": "x", "shape": [1], "dtype": "nn"}]), "ValueError 'nn' is no dtype"),
        (_changed(engine_sha256=None), "ValueError engine_sha256 is None"),
        (_changed(version=10.12), "ValueError version is 10.12"),
        (_changed(flags=None), "ValueError flags is None"),
    ],
)
def test_a_corrupt_sidecar_is_refused_with_what_is_wrong(content: bytes, reason: str, engine: Path) -> None:
    put(engine)
    sidecar_path(engine).write_bytes(content)
    message, hint = _refusal(engine)
    assert message.startswith("model.engine.json cannot be read: ")
    assert reason in message
    assert hint.startswith("Build the engine again")


def test_another_schema_is_refused_with_both(engine: Path) -> None:
    put(engine)
    sidecar_path(engine).write_bytes(_changed(schema="parallelize-engine/2"))
    message, hint = _refusal(engine)
    assert message == "model.engine.json has the schema 'parallelize-engine/2', not 'parallelize-engine/1'."
    assert "parallelize build" in hint


def test_an_engine_of_another_hash_is_refused_with_the_field(engine: Path) -> None:
    put(engine)
    engine.write_bytes(CONTENT + b"!")
    message, hint = _refusal(engine)
    assert message.startswith("model.engine is not the engine that model.engine.json describes: engine_sha256 is ")
    assert message.endswith(f", not {FULL.engine_sha256[:12]}....")
    assert "--trust-engine" in hint


def _misfit(sidecar: Sidecar, version: str, capability: str | None) -> str:
    with pytest.raises(ParallelizeError) as caught:
        check_fits(sidecar, "model.engine", version, capability)
    return f"{caught.value} {caught.value.hint}"


def test_an_engine_fits_its_own_version_and_each_of_its_gpus() -> None:
    for capability in ("8.6", "8.9", None):
        check_fits(FULL, "model.engine", FULL.version, capability)


def test_another_version_is_named_with_both() -> None:
    assert _misfit(FULL, "11.1.0.2", "8.9") == (
        "model.engine differs in version: it is of tensorrt 10.12.0.36, and 11.1.0.2 is installed."
        " Build it again here, or install tensorrt 10.12.0.36."
    )


def test_another_compute_capability_is_named_with_all_that_fit() -> None:
    assert _misfit(FULL, FULL.version, "9.0") == (
        "model.engine differs in compute capability: it was built for 8.6, 8.9, and this GPU has 9.0."
        " Build it again for this GPU."
    )


def test_a_version_compatible_engine_runs_on_another_version_but_not_on_another_gpu() -> None:
    portable = replace(FULL, flags={"version_compatible": True, "hardware_compatibility": "none"})
    check_fits(portable, "model.engine", "11.1.0.2", "8.9")
    assert "differs in compute capability" in _misfit(portable, "11.1.0.2", "9.0")


@pytest.mark.parametrize("capability", ["8.0", "9.0", "10.0", "12.0"])
def test_an_engine_for_ampere_and_later_runs_on_those(capability: str) -> None:
    portable = replace(FULL, flags={"hardware_compatibility": "ampere+"})
    check_fits(portable, "model.engine", FULL.version, capability)
    assert "differs in version" in _misfit(portable, "11.1.0.2", capability)


def test_an_engine_for_ampere_and_later_does_not_run_on_turing() -> None:
    portable = replace(FULL, flags={"hardware_compatibility": "ampere+"})
    assert "this GPU has 7.5" in _misfit(portable, FULL.version, "7.5")


def test_an_engine_for_one_compute_capability_runs_on_no_other() -> None:
    same = replace(FULL, flags={"hardware_compatibility": "same"}, targets=("8.9",))
    check_fits(same, "model.engine", FULL.version, "8.9")
    assert "it was built for 8.9, and this GPU has 8.6" in _misfit(same, FULL.version, "8.6")
