"""The networks of the comparison: which there are, what they cost, and that fusing them changes no number."""

from __future__ import annotations

from functools import partial

import pytest
from torch import Tensor

from parallelize.baselines.networks import (
    AS_IS,
    DELETED,
    DELETED_REFITTED,
    HEALED,
    REWRITE,
    SERIAL,
    UNFUSED,
    Variants,
)
from parallelize.healing.heal import heal
from parallelize.healing.options import HealOptions
from parallelize.metrics import predict, score
from parallelize.models.network import Network
from parallelize.refitting.refit import refit
from passes.graph.agreement import largest_change
from passes.graph.measures import operator_counts
from passes.plan import Refit
from passes.schedule.apply_plan import rewrite
from tests.parallelize.baselines.all_networks import build_variants
from tests.parallelize.small_models import images, pairs, vision
from tests.sampled import sampled

FIT, HELD_OUT, JUDGE = (images(count, seed) for seed, count in enumerate((120, 60, 60)))
LINEAR, ATTENTION, NORM = "aten.linear.default", "aten.scaled_dot_product_attention.default", "aten.layer_norm.default"


@pytest.fixture(scope="module")
def full() -> Variants[Network]:
    return build_variants(vision(), pairs("full", seed=5), FIT, HELD_OUT, "kl")


@pytest.fixture(scope="module")
def plain() -> Variants[Network]:
    return build_variants(vision(), pairs("none"), FIT, HELD_OUT, "kl")


def _outputs(variants: Variants[Network], name: str) -> list[Tensor]:
    return predict(variants[name].program.module, JUDGE)


def _names(variants: Variants[Network]) -> list[str]:
    return [network.name for network in variants.items]


def test_with_a_refit_all_networks_are_compared_in_order(full: Variants[Network]) -> None:
    assert _names(full) == [SERIAL, AS_IS, UNFUSED, REWRITE, DELETED, DELETED_REFITTED]
    assert len(set(_names(full))) == 6
    assert [full[name].name for name in _names(full)] == _names(full)


def test_without_a_refit_the_refitted_networks_are_left_out(plain: Variants[Network]) -> None:
    assert _names(plain) == [SERIAL, AS_IS, DELETED]
    assert plain.levels == ()


def test_the_serial_network_is_the_captured_one(full: Variants[Network]) -> None:
    assert full[SERIAL].program == vision()


@pytest.mark.parametrize("name", [AS_IS, UNFUSED, REWRITE, DELETED, DELETED_REFITTED])
def test_every_network_reads_and_returns_what_the_captured_one_does(full: Variants[Network], name: str) -> None:
    program = full[name].program
    assert (program.inputs, program.outputs, program.origin) == (vision().inputs, vision().outputs, "small")
    assert _outputs(full, name)[0].shape == (60, 10)


def test_the_fused_networks_compute_what_the_unfused_ones_do(full: Variants[Network]) -> None:
    as_is, _ = rewrite(vision().module, pairs("full"))
    assert full.deletion is not None
    deletion = refit(vision().module, full.deletion, FIT, HELD_OUT).module
    for unfused, fused in (
        (predict(as_is, JUDGE), AS_IS),
        (_outputs(full, UNFUSED), REWRITE),
        (predict(deletion, JUDGE), DELETED_REFITTED),
    ):
        assert 0 < largest_change(unfused, _outputs(full, fused)) < 1e-5


def test_a_fused_level_of_two_blocks_has_the_operations_of_one(full: Variants[Network]) -> None:
    counts = {name: operator_counts(full[name].program.module) for name in _names(full)}
    assert (counts[SERIAL][ATTENTION], counts[UNFUSED][ATTENTION], counts[REWRITE][ATTENTION]) == (4, 4, 2)
    assert (counts[SERIAL][LINEAR], counts[AS_IS][LINEAR], counts[REWRITE][LINEAR]) == (17, 9, 9)
    assert (counts[SERIAL][NORM], counts[AS_IS][NORM]) == (9, 5)


def test_a_fused_level_with_an_affine_part_has_one_norm(full: Variants[Network]) -> None:
    assert operator_counts(full[REWRITE].program.module)[NORM] == 5


def test_depths_are_counted_in_terms_and_in_blocks(full: Variants[Network]) -> None:
    assert {network.name: (network.depth_terms, network.depth_blocks) for network in full.items} == {
        SERIAL: (8, 4),
        AS_IS: (4, 2),
        UNFUSED: (4, 2),
        REWRITE: (4, 2),
        DELETED: (4, 2),
        DELETED_REFITTED: (4, 2),
    }


def test_half_the_depth_is_half_the_matrix_products_of_the_blocks(full: Variants[Network]) -> None:
    """The patches and the head are two; qkv, attention (2), out, up and down are six for each block."""
    assert {network.critical_gemms for network in full.items} == {2 + 6 * 4, 2 + 6 * 2}
    assert full[SERIAL].critical_gemms == 26


def test_parameters_are_those_of_the_network_itself(full: Variants[Network]) -> None:
    parameters = {network.name: network.parameters for network in full.items}
    assert parameters[SERIAL] == sum(p.numel() for p in vision().module.parameters())
    assert parameters[AS_IS] < parameters[SERIAL] < parameters[UNFUSED]
    block = 2 * 2 * 16 + 3 * 16 * 17 + 16 * 17 + 32 * 17 + 16 * 33
    assert parameters[DELETED] == parameters[SERIAL] - 2 * block
    assert parameters[UNFUSED] == parameters[SERIAL] + 4 * 16 * 17


def test_the_refit_brings_rewrite_and_deletion_nearer_to_the_teacher(full: Variants[Network]) -> None:
    teacher = _outputs(full, SERIAL)
    errors = {name: score(_outputs(full, name), teacher).error("kl") for name in _names(full)}
    assert errors[SERIAL] == 0
    assert errors[REWRITE] < errors[AS_IS]
    assert errors[DELETED_REFITTED] < errors[DELETED]


def test_the_record_says_what_was_applied_fused_and_refitted(full: Variants[Network], plain: Variants[Network]) -> None:
    assert [record.name for record in full.records] == ["apply-plan", "fuse-width", "move-views"]
    assert [record.name for record in plain.records] == ["apply-plan", "fuse-width", "move-views"]
    assert len(full.records[1].matches) == 4
    assert full.records[1].error is not None
    assert full.plan == pairs("full", seed=5)
    assert full.deletion is not None
    assert full.deletion.stacks[0].depth == 4
    assert full.deletion.seed == 5
    assert [level.strength for level in full.levels] == ["full"] * 4


@pytest.mark.slow
def test_a_network_that_a_search_has_refitted_already_is_taken_as_it_is() -> None:
    affine = refit(vision().module, pairs("affine"), FIT, HELD_OUT)
    variants = build_variants(vision(), pairs("full"), FIT, HELD_OUT, "kl", affine)
    assert variants[UNFUSED].program.module is affine.module
    assert variants.levels == affine.levels


@pytest.mark.slow
@pytest.mark.parametrize("strength", sampled(["affine", "none"], 2))
def test_a_healed_rewrite_is_one_more_network_fused_and_as_deep(strength: Refit) -> None:
    variants = _healed(strength, HealOptions(steps=20, batch_size=20, evaluate_every=5))
    refits = [] if strength == "none" else [UNFUSED, REWRITE]
    deletions = [DELETED] if strength == "none" else [DELETED, DELETED_REFITTED]
    assert _names(variants) == [SERIAL, AS_IS, *refits, HEALED, *deletions]
    assert variants.healed is not None
    assert variants.healed.module is variants[HEALED].module is variants.product.module
    start = variants[refits[-1] if refits else AS_IS]
    assert (variants[HEALED].critical_gemms, variants[HEALED].parameters) == (start.critical_gemms, start.parameters)


@pytest.mark.slow
def test_a_healing_that_does_not_help_adds_no_network() -> None:
    variants = _healed("affine", HealOptions(steps=4, batch_size=20, evaluate_every=2, learning_rate=1e3))
    assert HEALED not in _names(variants)
    assert variants.healed is not None
    assert variants.healed.best_step == 0


def _healed(strength: Refit, options: HealOptions) -> Variants[Network]:
    plan = pairs(strength)
    healer = partial(heal, teacher=vision().module, plan=plan, fit=FIT, held_out=HELD_OUT, options=options)
    return build_variants(vision(), plan, FIT, HELD_OUT, "kl", heal=healer)


@pytest.mark.slow
def test_what_is_being_done_is_told_in_order() -> None:
    said: list[str] = []
    build_variants(vision(), pairs("affine"), FIT, HELD_OUT, "kl", report=said.append)
    assert said == ["refitting the rewrite", "deleting blocks to the same depth", "refitting the deletion"]
