"""Which stack waits for which, found by data flow."""

from __future__ import annotations

from passes.plan import Plan, grouped, serial
from passes.stacks.stack_graph import StackGraph, stack_graph
from tests.parallelize.small_models import Towers, TwoStacks
from tests.parallelize.stack_graphs import (
    CrossAttending,
    Ladder,
    UShape,
    graph_of,
    para_former,
    serial_plan,
    stack_of_widths,
)


def edges(graph: StackGraph) -> set[tuple[int, int]]:
    return set(graph.order.edges)


def test_stacks_in_a_row_wait_for_each_other() -> None:
    graph = graph_of(TwoStacks())
    assert edges(graph) == {(0, 1)}
    assert (graph.serial_blocks, graph.serial_terms, graph.least_blocks) == (7, 7, 2)
    assert graph.blocks(serial_plan(graph, (3, 4))) == 2


def test_towers_run_side_by_side_and_the_deeper_one_counts() -> None:
    graph = graph_of(Towers((4, 2, 3)))
    assert edges(graph) == set()
    assert (graph.serial_blocks, graph.least_blocks) == (4, 1)
    assert graph.blocks(serial_plan(graph, (4, 1, 1))) == 3
    assert [graph.through(number, [4, 2, 3]) for number in range(3)] == [4, 2, 3]


def test_a_stack_whose_term_reads_another_as_a_side_input_is_behind_it_as_a_whole() -> None:
    graph = graph_of(CrossAttending())
    order = [len(stack.terms) for stack in graph.stacks]
    assert sorted(order) == [2, 3]
    assert edges(graph) == {(order.index(2), order.index(3))}
    assert graph.serial_terms == 5


def test_stacks_that_read_each_other_in_their_middle_count_as_one_after_the_other() -> None:
    graph = graph_of(Ladder())
    assert len(graph.stacks) == 2
    assert edges(graph) == {(0, 1)}
    assert graph.serial_terms == 4


def test_an_edge_that_follows_from_others_is_left_out() -> None:
    graph = graph_of(UShape())
    assert edges(graph) == {(0, 1), (1, 2)}
    assert graph.serial_blocks == 5


def test_branches_of_a_para_former_are_one_block_deep_and_parallel() -> None:
    graph = para_former(4, 4)
    assert [len(stack.terms) for stack in graph.stacks] == [2] * 4
    assert (graph.serial_blocks, graph.serial_terms) == (1, 2)
    assert graph.branches == ((0, 1, 2, 3),)
    assert graph.is_parallel
    assert para_former(4, 2).serial_blocks == 2


def test_a_serial_network_and_towers_of_unequal_depth_are_not_parallel_throughout() -> None:
    assert not para_former(2, 1).is_parallel
    assert not graph_of(Towers((2, 1))).is_parallel
    assert not graph_of(TwoStacks()).is_parallel


def test_a_model_without_stacks_has_no_depth() -> None:
    graph = stack_graph(())
    assert (graph.serial_blocks, graph.least_blocks, graph.is_parallel) == (0, 0, False)
    assert graph.blocks(Plan(())) == 0


def test_rounding_up_to_blocks_is_done_stack_by_stack() -> None:
    graph = para_former(2, 2)
    plan = Plan((serial(2), grouped(2, [[(0,), (1,)]])))
    assert (graph.terms(plan), graph.blocks(plan)) == (2, 1)


def test_layers_that_take_turns_in_how_they_are_built_make_one_block_of_several() -> None:
    wide, narrow = (stack_of_widths(*sizes) for sizes in ((8, 8, 8, 8), (8, 12, 8, 12)))
    assert (wide.serial_blocks, wide.serial_layers) == (4, 4)
    assert (narrow.serial_blocks, narrow.serial_layers) == (2, 4)
