"""What of a checkpoint is the state of a module: what the module itself takes without a rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from parallelize.models.sources.fitting import Candidate, candidates, load
from tests.parallelize.models.sources.cases import layers

HALF = {name: torch.full_like(value, 0.5) for name, value in layers().state_dict().items()}
OTHER = {name: value + 1 for name, value in HALF.items()}


def prefixed(prefix: str, state: Mapping[str, Any] = HALF) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def fitting(module: nn.Module, held: Any) -> list[Candidate]:
    return [found for found in candidates(module, held) if not found.problems]


def loaded(module: nn.Module, held: Any) -> nn.Module:
    """The module with what fits."""
    found = fitting(module, held)
    assert found
    assert load(module, found[0].state) == ()
    return module


def problems(module: nn.Module, held: Any) -> tuple[str, ...]:
    return min(candidates(module, held), key=lambda found: found.distance).problems


@pytest.mark.parametrize(
    ("held", "labels", "left_out"),
    [
        (HALF, [""], ()),
        ({"a": {"b": [{"c": prefixed("x.")}]}}, ["a.b.0.c.x"], ()),
        ({"net": nn.ModuleDict({"model": layers()}), "epoch": 3}, ["net.model"], ()),
        (prefixed("teacher.") | prefixed("student.", OTHER), ["teacher", "student"], tuple(prefixed("student."))),
        (prefixed("model.") | {"loss.weight": torch.ones(2)}, ["model"], ("loss.weight",)),
        ({"model": HALF, "moments": {"0.exp_avg": torch.ones(3)}}, ["model"], ()),
    ],
)
def test_a_state_is_found_by_keys_and_prefix_and_the_rest_beside_it_is_told(
    held: Any, labels: list[str], left_out: tuple[str, ...]
) -> None:
    found = fitting(layers(), held)
    assert [candidate.label for candidate in found] == labels
    assert found[0].left_out == left_out
    assert found[0].is_under(labels[0].partition(".")[0])
    assert not found[0].is_under("elsewhere")


def test_inside_of_a_prefix_there_may_be_nothing_else() -> None:
    assert problems(layers(), prefixed("net.") | {"net.third.weight": torch.ones(1)}) == (
        "'third.weight' is not in the model",
    )


def test_what_does_not_fit_is_told_by_name_and_shape_and_what_is_missing_counts_most() -> None:
    lacking = {name: value for name, value in HALF.items() if name != "first.weight"}
    assert problems(layers(), lacking) == ("'first.weight' is missing",)
    narrow = HALF | {"first.bias": torch.zeros(3)}
    assert problems(layers(), narrow) == ("'first.bias' has the shape 3, the model's 8",)
    quantized = HALF | {"first.weight": torch.ones(8, 4, dtype=torch.int8)}
    assert problems(layers(), quantized) == (
        "'first.weight' holds integers (int8), the model's floating-point numbers",
    )
    more = HALF | {f"{number}.weight": torch.ones(1) for number in range(3)}
    assert len(problems(layers(), {"lacking": lacking, "more": more})) == 3


def test_where_nothing_fits_the_mapping_with_most_entries_is_told_of() -> None:
    small, large = {"a": torch.ones(1)}, {"b": torch.ones(1), "c": torch.ones(1)}
    assert {
        found.key for found in candidates(nn.Sequential(*[layers() for _ in range(4)]), {"s": small, "l": large})
    } == {"l"}
    half = {name: value for name, value in HALF.items() if name.startswith("first")}
    assert {found.key for found in candidates(layers(), {"half": half, "net": large})} == {"half", "net"}


def test_shapes_that_do_not_fit_are_told_and_missing_counters_are_not() -> None:
    norm = nn.BatchNorm1d(3)
    held = {name: torch.zeros(4) for name, value in norm.state_dict().items() if value.ndim}
    assert problems(norm, held) == tuple(
        f"{name!r} has the shape 4, the model's 3" for name in ("weight", "bias", "running_mean", "running_var")
    )


def test_states_are_equal_by_the_values_under_their_names() -> None:
    square = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    a, b = torch.eye(2), torch.ones(2, 2)
    held = {"one": {"0.weight": a, "1.weight": b}, "copy": {"0.weight": a.clone(), "1.weight": b.clone()}}
    one, copy, swapped = fitting(square, held | {"swapped": {"0.weight": b, "1.weight": a}})
    assert one.equals(copy)
    assert not one.equals(swapped)


def test_a_wrapped_module_takes_the_state_of_what_it_wraps_and_the_other_way_round() -> None:
    wrapped = nn.Sequential(OrderedDict(net=layers()))
    assert torch.equal(loaded(wrapped, HALF).net.first.weight, HALF["first.weight"])
    compiled = nn.Sequential(OrderedDict(_orig_mod=layers()))
    assert torch.equal(loaded(compiled, prefixed("module."))._orig_mod.first.bias, HALF["first.bias"])
    inner = {name.replace(".", "._checkpoint_wrapped_module."): value for name, value in HALF.items()}
    assert torch.equal(loaded(layers(), inner).first.bias, HALF["first.bias"])


class Hooked(nn.Module):
    """Renames, when it loads, what older versions called otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.new = nn.Linear(4, 2)
        self.register_load_state_dict_pre_hook(self._rename)

    @staticmethod
    def _rename(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}old.")]:
            state[name.replace("old.", "new.")] = state.pop(name)


def test_hooks_that_rename_count() -> None:
    held = {"old.weight": torch.ones(2, 4), "old.bias": torch.ones(2)}
    assert loaded(Hooked(), held).new.weight.sum() == 8
    assert loaded(Hooked(), {"model": prefixed("module.", held)}).new.weight.sum() == 8
    new = {name.replace("old", "new"): value for name, value in held.items()}
    old, same, other = fitting(Hooked(), {"a": held, "b": new, "c": {name: 2 * value for name, value in new.items()}})
    assert old.equals(same)
    assert not old.equals(other)


def tied() -> nn.Module:
    module = nn.Module()
    module.embed, module.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    module.head.weight = module.embed.weight
    return module


def test_tied_weights_may_be_stored_once_and_counters_may_be_missing_or_too_many() -> None:
    assert loaded(tied(), {"embed.weight": torch.ones(5, 4)}).head.weight.sum() == 20
    assert loaded(tied(), prefixed("module.", {"head.weight": torch.ones(5, 4)})).embed.weight.sum() == 20
    views = tied()
    views.head.weight = nn.Parameter(views.embed.weight.detach())  # another tensor of the same numbers
    assert fitting(views, {"embed.weight": torch.ones(5, 4)})
    norm = nn.Sequential(nn.BatchNorm1d(3))
    held = norm.state_dict()  # with the versions of its layers
    del held["0.num_batches_tracked"]
    held["0.running_mean"] += 2
    assert loaded(nn.Sequential(nn.BatchNorm1d(3)), held)[0].running_mean.tolist() == [2, 2, 2]
    without = nn.Sequential(nn.BatchNorm1d(3))
    del without[0]._buffers["num_batches_tracked"]
    assert fitting(without, norm.state_dict() | {"0.num_batches_tracked": torch.tensor(3)})


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("written", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("read", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_weight_norm_of_either_kind_reads_either(
    written: Callable[..., nn.Module], read: Callable[..., nn.Module]
) -> None:
    source, target = (nn.Sequential(nn.Identity(), kind(nn.Linear(4, 4))) for kind in (written, read))
    loaded(target, {"generator": source.state_dict()})
    x = torch.randn(2, 4)
    assert torch.allclose(source(x), target(x))


def test_a_buffer_that_is_computed_may_be_stored_if_it_is_the_same() -> None:
    module = layers()
    module.register_buffer("positions", torch.arange(3), persistent=False)
    loaded(module, HALF | {"positions": torch.arange(3)})
    assert problems(module, HALF | {"positions": torch.arange(3) + 1}) == ("'positions' is not in the model",)


def test_a_module_on_no_device_gets_its_tensors_but_no_buffers_that_it_would_compute() -> None:
    with torch.device("meta"):
        module = layers()
        module.register_buffer("positions", torch.arange(3), persistent=False)
    assert torch.equal(loaded(module, prefixed("module.")).first.weight, HALF["first.weight"])
    assert problems(module, HALF | {"positions": torch.arange(3)}) == ("'positions' is not in the model",)


def test_a_checkpoint_without_tensors_has_no_candidates() -> None:
    assert candidates(layers(), {"epoch": 1, "a": [{"b": "c"}]}) == []
    assert candidates(layers(), [1, 2]) == []
