"""The runner: what it does around every pass, and what it refuses."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, fx, nn

from passes.clean.remove_identities import RemoveIdentities
from passes.errors import PassError
from passes.graph.operators import aten
from passes.graph.outputs import flat_leaves
from passes.plan import Plan, serial
from passes.runner import Pass, PassResult, Skip, run_passes
from passes.schedule.apply_plan import ApplyPlan
from tests.passes.models import WIDTH, fixed_graph_of, mlps, normal, randomised, text, tokens, wrong_metadata


@dataclass(frozen=True)
class Multiply(Pass):
    """Multiply every output.

    And say so.
    """

    factor: float = 1.0
    name: ClassVar[str] = "multiply"
    exact: ClassVar[bool] = True

    def apply(self, module: fx.GraphModule) -> PassResult:
        output = next(iter(module.graph.find_nodes(op="output")))
        for leaf in flat_leaves(module):
            with module.graph.inserting_before(output):
                product = module.graph.call_function(aten.mul.Tensor, (leaf, self.factor))
            output.replace_input_with(leaf, product)
        return PassResult(("outputs",), (Skip("x", "x is an input"),))


class Scale(Multiply):
    """Multiply every output on purpose."""

    name = "scale"
    exact = False


def _linear(dtype: torch.dtype = torch.float64) -> tuple[fx.GraphModule, Tensor]:
    graph = fixed_graph_of(randomised(nn.Linear(WIDTH, WIDTH)).to(dtype), normal(3, WIDTH).to(dtype))
    return graph, normal(3, WIDTH).to(dtype)


# -------------------------------------------------------------------------------------------------------- the runner


def test_a_pass_that_changes_nothing_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[fx.GraphModule] = []
    monkeypatch.setattr("passes.runner.flat_outputs", lambda module, probe: ran.append(module) or [torch.zeros(3)])
    graph, x = _linear()
    _, records = run_passes(graph, [RemoveIdentities(), Scale(2.0), RemoveIdentities()], [x])
    assert len(ran) == 2
    assert [record.error for record in records] == [0.0, 0.0, 0.0]


def test_an_exact_pass_that_changes_the_outputs_is_refused_with_its_name_and_the_change() -> None:
    graph, x = _linear()
    with pytest.raises(PassError) as caught:
        run_passes(graph, [Multiply(1.5)], [x])
    assert str(caught.value) == "The pass multiply is exact but changed the outputs by 5.0e-01 of their size."
    assert caught.value.hint == "This is a bug; please report it with the model."
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("dtype", "allowed", "refused"),
    [
        (torch.float64, 1e-11, 1e-9),
        (torch.float32, 1e-5, 1e-3),
        (torch.float16, 5e-3, 5e-2),
        (torch.bfloat16, 2e-2, 5e-1),
    ],
)
def test_an_exact_pass_may_change_the_outputs_by_rounding_of_their_dtype(
    dtype: torch.dtype, allowed: float, refused: float
) -> None:
    graph, x = _linear(dtype)
    run_passes(graph, [Multiply(1 + allowed)], [x])
    with pytest.raises(PassError):
        run_passes(graph, [Multiply(1 + refused)], [x])


def test_rounding_is_that_of_the_coarsest_type_that_the_graph_computes_in() -> None:
    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.float() * 2).double()

    graph, x = fixed_graph_of(Rounded().eval(), normal(3, WIDTH)), normal(3, WIDTH)
    run_passes(graph, [Multiply(1 + 1e-7)], [x])
    with pytest.raises(PassError):
        run_passes(graph, [Multiply(1 + 1e-3)], [x])


def test_a_pass_that_is_not_exact_may_change_the_outputs_and_the_change_is_recorded() -> None:
    graph, x = _linear()
    scaled, (record,) = run_passes(graph, [Scale(3.0)], [x])
    assert torch.equal(scaled(x), graph(x) * 3.0)
    assert record.error == pytest.approx(2.0)
    assert not record.exact


def test_without_a_probe_nothing_is_measured_and_nothing_refused() -> None:
    graph, _ = _linear()
    _, (record,) = run_passes(graph, [Multiply(1.5)])
    assert record.error is None


def test_each_pass_is_measured_against_the_one_before_it() -> None:
    graph, x = _linear()
    _, records = run_passes(graph, [Scale(3.0), Multiply(1.0), Scale(0.5)], [x])
    assert [record.error for record in records] == pytest.approx([2.0, 0.0, 0.5])


def test_an_exact_pass_whose_outputs_are_no_numbers_is_refused() -> None:
    graph, x = _linear()
    with pytest.raises(PassError):
        run_passes(graph, [Multiply(float("nan"))], [x])


def test_a_record_holds_name_matches_skips_and_numbers_of_nodes() -> None:
    graph, _ = _linear()
    _, (record,) = run_passes(graph, [Scale(2.0)])
    assert (record.name, record.exact) == ("scale", False)
    assert record.matches == ("outputs",)
    assert record.skipped == (Skip("x", "x is an input"),)
    assert (record.nodes_before, record.nodes_after) == (5, 6)
    assert record.seconds > 0


def test_the_callback_sees_each_pass_with_its_number_and_its_graph() -> None:
    graph, _ = _linear()
    seen: list[tuple[int, str, int]] = []
    passes = [Scale(2.0), RemoveIdentities(), Scale(3.0)]
    run_passes(graph, passes, callback=lambda number, step, g: seen.append((number, step.name, len(g.graph.nodes))))
    assert seen == [(0, "scale", 6), (1, "remove-identities", 6), (2, "scale", 7)]


def test_no_passes_give_the_graph_itself() -> None:
    graph, x = _linear()
    assert run_passes(graph, [], [x]) == (graph, ())


def test_the_runner_leaves_its_input_alone() -> None:
    graph, x = _linear()
    before, expected = text(graph), graph(x)
    run_passes(graph, [Scale(2.0), Scale(3.0)])
    assert text(graph) == before
    assert torch.equal(graph(x), expected)


def test_shapes_are_propagated_after_each_pass() -> None:
    graph, _ = _linear()
    scaled, _ = run_passes(graph, [Scale(2.0)])
    (product,) = flat_leaves(scaled)
    assert str(product.meta["val"].shape) == str(flat_leaves(graph)[0].meta["val"].shape)
    assert wrong_metadata(scaled, normal(3, WIDTH)) == []


# ----------------------------------------------------------------------------------------------------- what a pass is


def test_the_summary_of_a_pass_is_the_first_line_of_its_docstring() -> None:
    assert Multiply.summary() == "Multiply every output."


def test_the_parameters_of_a_pass_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Multiply(2.0).factor = 3.0  # type: ignore[misc]


def test_a_pass_without_apply_cannot_be_made() -> None:
    class Nothing(Pass):
        name = "nothing"
        exact = True

    with pytest.raises(TypeError, match="apply"):
        Nothing()  # type: ignore[abstract]


def test_the_serial_schedule_passes_the_runner_unchanged() -> None:
    _, graph = mlps(2)
    result, (record,) = run_passes(graph, [ApplyPlan(Plan((serial(2),)))], [tokens()])
    assert text(result) == text(graph)
    assert (record.nodes_before, record.nodes_after, record.error) == (len(graph.graph.nodes),) * 2 + (0.0,)


def test_a_graph_that_writes_in_place_is_refused_by_the_name_of_the_node() -> None:
    graph, x = _linear()
    output = next(node for node in reversed(graph.graph.nodes) if node.op == "output")
    with graph.graph.inserting_before(output):
        graph.graph.call_function(torch.ops.aten.relu_.default, (output.all_input_nodes[0],))
    with pytest.raises(PassError, match=r"^relu__default \(aten\.relu_\.default\) writes in place") as caught:
        run_passes(graph, [Scale(2.0)], [x])
    assert "parallelize.capture" in caught.value.hint
