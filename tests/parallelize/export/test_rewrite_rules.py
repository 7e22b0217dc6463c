"""The exporter's rules are tried where they can begin only, and make the same file of a network as everywhere."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from onnxscript.rewriter import RewriteRule
from torch import Tensor, nn

from parallelize.export import onnx as exporting
from parallelize.export.onnx import write_onnx
from parallelize.export.rewrite_rules import rules_where_they_begin
from parallelize.models.capture import capture
from parallelize.models.program import Program
from tests.parallelize import small_models as small


class Rewritten(nn.Module):
    """Rules fire in it: a product with 1, a cast to the same, two bounds and two reshapes in a row."""

    def forward(self, x: Tensor) -> Tensor:
        low, high = x[:, :4], x[:, 4:]
        return (low * 1.0 + high).to(torch.float32).clamp(min=-2.0).clamp(max=2.0).reshape(-1, 2, 2).reshape(-1, 4)


def _rewritten() -> Program:
    return capture(Rewritten().eval(), (torch.randn(2, 8),), origin="small")


@pytest.mark.parametrize("program", [small.vision(), _rewritten()], ids=["vision", "rewritten"])
def test_the_file_is_the_one_that_comes_of_trying_all_rules_everywhere(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx(program, tmp_path / "some.onnx")
    monkeypatch.setattr(exporting, "rules_where_they_begin", contextlib.nullcontext)
    write_onnx(program, tmp_path / "all.onnx")
    assert (tmp_path / "some.onnx").read_bytes() == (tmp_path / "all.onnx").read_bytes()


def test_rules_fire_and_are_not_tried_at_nodes_of_other_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: Counter[tuple[str, str]] = Counter()
    fired: Counter[str] = Counter()
    original = RewriteRule.try_rewrite

    def counted(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        nodes = self._target_pattern.output_nodes
        known = nodes[0].op_identifier()
        tried[(node.op_type, known[1] if known else node.op_type)] += 1
        found = original(self, model, graph, node, **options)
        fired[str(self.name)] += found is not None
        return found

    monkeypatch.setattr(RewriteRule, "try_rewrite", counted)
    write_onnx(_rewritten(), tmp_path / "a.onnx")
    assert tried
    assert all(at == begins for at, begins in tried)
    assert fired["FuseSuccessiveClip"] == 1
    assert fired["ReshapeReshape"] == 1


def test_the_rules_are_as_they_were_afterwards() -> None:
    original = RewriteRule.try_rewrite
    with contextlib.suppress(KeyError), rules_where_they_begin():
        assert RewriteRule.try_rewrite is not original
        raise KeyError
    assert RewriteRule.try_rewrite is original
