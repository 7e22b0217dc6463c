"""What the exporter knows of operators is read once, and its own way of reading stays."""

from __future__ import annotations

from torch.onnx._internal.exporter._registration import ONNXRegistry

from parallelize.export.translations import kept_translations


def test_each_opset_is_read_once_and_holds_what_the_exporter_reads() -> None:
    with kept_translations():
        first = ONNXRegistry.from_torchlib(opset_version=18)
    with kept_translations():
        again, other = (ONNXRegistry.from_torchlib(opset_version=opset) for opset in (18, 22))
    fresh = ONNXRegistry.from_torchlib(opset_version=18)
    assert again is first
    assert fresh is not first
    assert first.functions.keys() <= fresh.functions.keys()  # operators of libraries that were imported meanwhile
    assert "aten::linear" in first.functions
    assert (first.opset_version, other.opset_version) == (18, 22)
