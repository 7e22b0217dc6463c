"""A network counts its depth in terms and in blocks, and what it stores and waits for on its own graph."""

from __future__ import annotations

from dataclasses import replace

from parallelize.models.network import Network
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import find_stacks
from passes.stacks.stack_graph import stack_graph
from tests.parallelize.small_models import pairs, vision


def test_depth_is_of_the_plan_and_size_of_the_graph() -> None:
    program, plan = vision(), pairs("none")
    graph = stack_graph(find_stacks(program.module).stacks)
    serial = Network.of("serial", program, graph.serial_plan, graph)
    assert (serial.depth_terms, serial.depth_blocks) == (8, 4) == (graph.serial_terms, graph.serial_blocks)
    module, _ = rewrite(program.module, plan)
    ours = Network.of("pairs", replace(program, module=module), plan, graph)
    assert (ours.depth_terms, ours.depth_blocks) == (4, 2)
    assert ours.module is module
    assert ours.parameters == serial.parameters == sum(p.numel() for p in program.module.parameters())
    assert ours.critical_gemms < serial.critical_gemms
