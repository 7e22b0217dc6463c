"""What a builder is told in the words of either library, and what it is not asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parallelize.backends.tensorrt.library import Library
from parallelize.backends.tensorrt.options import BuildOptions, configure
from passes.errors import ParallelizeError
from tests.parallelize.backends.tensorrt.double import make_double
from tests.parallelize.backends.tensorrt.strictness import Script

EVERYTHING = BuildOptions(
    precision="tf32",
    workspace=64,
    optimization_level=3,
    max_aux_streams=0,
    version_compatible=True,
    hardware_compatibility="ampere+",
)


def library(*, rtx: bool = False, script: Script | None = None) -> Library:
    return Library("tensorrt-rtx" if rtx else "tensorrt", make_double(script or Script(), rtx=rtx))


def told(options: BuildOptions, *, rtx: bool = False) -> dict[str, list[tuple[Any, ...]]]:
    """What a config was told, by the name of the call."""
    script = Script()
    made = library(rtx=rtx, script=script)
    configure(made, made.module.IBuilderConfig(), options)
    return {name.removeprefix("IBuilderConfig."): script.given(name) for name in script.names}


def test_everything_that_was_asked_for_is_told_in_the_librarys_units() -> None:
    found = told(EVERYTHING)
    assert found["set_flag"] == [("TF32",), ("VERSION_COMPATIBLE",)]
    assert found["set_memory_pool_limit"] == [("WORKSPACE", 64 << 20)]
    assert (found["builder_optimization_level="], found["max_aux_streams="]) == ([(3,)], [(0,)])
    assert [level.name for (level,) in found["hardware_compatibility_level="]] == ["AMPERE_PLUS"]


def test_what_was_not_asked_for_is_left_to_the_library_but_for_tf32_which_is_off() -> None:
    assert {name: calls for name, calls in told(BuildOptions()).items() if name != "profiling_verbosity="} == {
        "clear_flag": [("TF32",)]
    }


def test_targets_are_those_that_were_named_else_all_portable_ones() -> None:
    assert told(BuildOptions(), rtx=True)["set_compute_capability"] == [("SM80", 0), ("SM89", 1)]
    assert told(BuildOptions(compute_capabilities=("7.5",)), rtx=True)["set_compute_capability"] == [("SM75", 0)]
    assert BuildOptions().targets(library(rtx=True)) == ("8.0", "8.9")
    assert BuildOptions().targets(library()) == ()


@pytest.mark.parametrize(
    ("options", "rtx", "message"),
    [
        (BuildOptions(compute_capabilities=("8.9",)), False, "--compute-capability is for tensorrt-rtx: "),
        (BuildOptions(compute_capabilities=("9.0",)), True, "TensorRT for RTX 10.12.0.36 has no kernels for compute "),
        (BuildOptions(timing_cache=Path("cache")), True, "--timing-cache is for tensorrt: "),
        (BuildOptions(version_compatible=True), True, "--version-compatible is for tensorrt: "),
        (BuildOptions(hardware_compatibility="same"), True, "--hardware-compatibility-level is for tensorrt: "),
    ],
)
def test_what_a_library_cannot_do_is_refused_by_the_option(options: BuildOptions, rtx: bool, message: str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        options.check(library(rtx=rtx))
    assert str(caught.value).startswith(message)
    assert caught.value.hint


def test_what_it_can_do_is_not_refused_and_is_kept_in_the_sidecar() -> None:
    EVERYTHING.check(library())
    BuildOptions(compute_capabilities=("8.9", "7.5")).check(library(rtx=True))
    assert EVERYTHING.flags() == {
        "tf32": True,
        "workspace_mib": 64,
        "optimization_level": 3,
        "max_aux_streams": 0,
        "version_compatible": True,
        "hardware_compatibility": "ampere+",
    }
    assert BuildOptions(precision="fp32").flags()["tf32"] is False
