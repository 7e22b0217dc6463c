"""Where the states of stacks are, by the names of values, kept in a file and read back."""

from __future__ import annotations

import json

import pytest

from parallelize.export.state_names import StackStates, from_metadata, named_states, to_metadata
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import vision

STACK = StackStates("blocks", ("attention", "mlp"), ("blocks.0", ""), ("x", "add", "add_1"))


def test_a_stack_of_a_graph_has_one_more_state_than_terms_each_the_name_of_a_node() -> None:
    found = find_stacks(vision(2).module).stacks
    (stack,) = named_states(found)
    assert (stack.name, stack.kinds) == (found[0].name, ("attention", "mlp") * 2)
    assert len(stack.states) == len(stack.modules) + 1 == 5
    assert stack.states[0] == found[0].entry.name
    assert set(stack.states) <= {node.name for node in vision(2).module.graph.nodes}
    assert named_states(()) == ()


def test_what_is_written_is_read_back_in_one_line() -> None:
    text = to_metadata([STACK, STACK])
    assert from_metadata(text) == (STACK, STACK)
    assert "\n" not in text
    assert " " not in text
    assert from_metadata(to_metadata([])) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        "null",
        "[1]",
        '["name"]',
        '{"name": "a"}',
        json.dumps([{"name": "a", "kinds": [], "modules": []}]),
        json.dumps([{"name": "a", "kinds": [], "modules": [], "states": None}]),
    ],
)
def test_what_is_not_ours_is_nothing(text: str) -> None:
    assert from_metadata(text) is None
