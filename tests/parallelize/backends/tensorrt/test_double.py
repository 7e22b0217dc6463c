"""The double of `tensorrt` raises on every name that one of the two versions lacks; else it would prove nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parallelize.backends.tensorrt.double import make_double
from tests.parallelize.backends.tensorrt.strictness import LATER, OF_RTX, REMOVED, Script

MODULE = make_double(Script())
CASES = [
    (owner, name, reason)
    for reason, names in (("removed in TensorRT 11", REMOVED), ("not in TensorRT 10.12", LATER), ("RTX only", OF_RTX))
    for owner, listed in names.items()
    for name in listed
]


def _owner(name: str) -> Any:
    return MODULE if name == "tensorrt" else getattr(MODULE, name)


@pytest.mark.parametrize(("owner", "name", "reason"), CASES, ids=[f"{owner}.{name}" for owner, name, _ in CASES])
def test_a_name_that_one_version_lacks_raises_with_the_reason(owner: str, name: str, reason: str) -> None:
    with pytest.raises(AttributeError, match=rf"^{owner}\.{name} was touched: .*{reason}"):
        getattr(_owner(owner), name)


@pytest.mark.parametrize("name", ["IBuilderConfig", "ITensor", "ICudaEngine", "Builder"])
def test_a_name_that_an_instance_lacks_can_neither_be_read_nor_set(name: str) -> None:
    value = _owner(name).__new__(_owner(name))
    for attribute in (*REMOVED[name], "made_up"):
        with pytest.raises(AttributeError, match=rf"^{name}\.{attribute} was touched"):
            getattr(value, attribute)
        with pytest.raises(AttributeError, match=rf"^{name}\.{attribute} was touched"):
            setattr(value, attribute, 1)


@pytest.mark.parametrize("name", ["create_timing_cache", "set_timing_cache", "get_timing_cache"])
def test_the_double_of_tensorrt_for_rtx_has_no_timing_cache(name: str) -> None:
    rtx = make_double(Script(), rtx=True)
    with pytest.raises(AttributeError, match=name):
        getattr(rtx.IBuilderConfig(), name)
    assert hasattr(MODULE.IBuilderConfig(), name)


def test_what_is_called_and_set_is_recorded_in_its_order() -> None:
    script = Script(refuse={"IBuilderConfig.set_timing_cache"})
    config = make_double(script).IBuilderConfig()
    config.max_aux_streams = 2
    assert not config.set_timing_cache(None, ignore_mismatch=False)
    assert script.calls == [
        ("IBuilderConfig.max_aux_streams=", (2,)),
        ("IBuilderConfig.set_timing_cache", (None, False)),
    ]
