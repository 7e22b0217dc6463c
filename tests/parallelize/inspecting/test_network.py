"""What inspect tells of a network, as plain values and as tables, and what passes are told to be."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
import torch
from rich.console import Console
from torch import Tensor

from parallelize.inspecting.network import as_dict, print_passes, print_tables
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.registry import PASSES
from tests.parallelize.models.captured import Function
from tests.parallelize.planning.cases import unlike
from tests.parallelize.small_models import Towers, TwoStacks, capture_vectors, vision


def shown(show: Callable[[Console], None]) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def tables(program: Program) -> str:
    return shown(lambda console: print_tables(program, console))


def test_plain_values_hold_the_network_its_stacks_and_what_would_fuse() -> None:
    content = as_dict(vision(2))
    json.dumps(content)
    assert content["inputs"] == [{"name": "images", "shape": ["batch", 1, 8, 8], "dtype": "float32"}]
    assert content["parameters"] == sum(value.numel() for value in vision(2).module.parameters())
    assert content["depth"] == {"terms": 4, "blocks": 2, "layers": 2}
    (stack,) = content["stacks"]
    assert stack["state"] == ["batch", "4", "16"]
    assert (stack["blocks"], stack["behind"]) == ([[0, 1], [2, 3]], [])
    assert [term["kind"] for term in stack["terms"]] == ["attention", "mlp"] * 2
    assert {form: (found["levels"], found["left"]) for form, found in content["fusion"].items()} == {
        "sublayer": (2, []),
        "block": (1, []),
    }
    assert sum(content["operators"].values()) > 10


def test_the_network_itself_is_not_changed_by_looking_at_what_would_fuse() -> None:
    before = [(node.name, node.args) for node in vision(2).module.graph.nodes]
    as_dict(vision(2))
    assert [(node.name, node.args) for node in vision(2).module.graph.nodes] == before


def test_tables_tell_names_as_they_are_and_leave_out_columns_in_which_nothing_stands() -> None:
    program = capture(Function(lambda x: x + x.tanh()).eval(), (torch.zeros(2, 3),), dynamic=None, origin="[red]a")
    assert "[red]a  x: 2x3 float32" in tables(program)
    text = tables(vision(2))
    assert "stack 0 'blocks': 4 terms in 2 blocks, state batch x 4 x 16" in text
    assert "attention" in text
    assert "side inputs" not in text
    assert "pairs of blocks in sublayer form: 2 sums would be fused" in text


def test_stacks_behind_each_other_and_side_by_side_are_counted_along_the_longest_path() -> None:
    torch.manual_seed(0)
    text = tables(capture_vectors(TwoStacks(), 6))
    assert "4 terms in 4 blocks, behind stack 0, state" in text
    assert "2 stacks, 7 blocks deep on the longest path (7 terms)" in text
    towers = capture_vectors(Towers((2, 2)), 6)
    assert as_dict(towers)["fusion"]["captured"]["levels"] == 1
    assert "branches as captured: 0 sums would be fused" in tables(towers)


def test_branches_that_share_their_last_product_only_are_told_from_those_of_one_structure() -> None:
    first, second = as_dict(unlike())["fusion"]["sublayer"]["fused"]
    assert first.endswith(": 2 x linear_1")
    assert second.count("1 x ") == 2


def test_a_network_without_a_stack_says_so_and_why_adds_were_refused() -> None:
    class Scaled(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.mean()

    text = tables(capture(Scaled().eval(), (torch.zeros(2, 3),), dynamic=None, origin="net"))
    assert "No residual stack was found." in text
    assert "would be fused" not in text


def test_passes_are_listed_with_one_line_each_or_told_whole() -> None:
    text = shown(lambda console: print_passes(None, console))
    assert all(name in text for name in PASSES)
    told = shown(lambda console: print_passes("cast-precision", console))
    assert told.startswith("cast-precision (not exact)")
    assert "parameter dtype: " in told
    with pytest.raises(ParallelizeError, match=r"^There is no pass 'fuse-everything'\.$") as caught:
        print_passes("fuse-everything", Console(file=io.StringIO()))
    assert caught.value.hint.startswith("The passes are ")
