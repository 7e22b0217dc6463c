"""Each stage of a job runs where the program is: with everything on a device that is not the default, nothing else is
asked, and the numbers are those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parallelize.baselines.linear_maps import replaced
from parallelize.baselines.methods import baselines
from parallelize.conversion.convert import convert
from parallelize.conversion.options import ConvertOptions
from parallelize.data import Samples
from parallelize.exploring import sensitivity
from parallelize.exploring.explore import explore
from parallelize.exploring.options import PlanOptions
from parallelize.healing.heal import Healed, heal
from parallelize.healing.options import HealOptions
from parallelize.machine.device import CPU
from parallelize.metrics import Judge
from parallelize.models.clean import clean
from parallelize.models.finiteness import refuse_not_finite
from parallelize.models.placement import device_of, placed
from parallelize.models.program import Program
from parallelize.models.source import Source
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from passes.plan import Plan, Refit
from tests.parallelize.baselines.all_networks import build_variants
from tests.parallelize.other_device import other_device
from tests.parallelize.small_models import images, language, pairs, stack_plan, text, vision

FIT, HELD_OUT, JUDGED = images(40, 0), images(20, 1), images(12, 2, labelled=True)


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    with other_device() as there:
        yield there


@pytest.fixture(scope="module")
def there(device: torch.device) -> Program:
    return placed(vision(2), device)


def test_a_tensor_of_the_host_is_refused_on_the_device(device: torch.device, there: Program) -> None:
    with pytest.raises(RuntimeError, match="device"):
        Judge(there.module, JUDGED)
    with pytest.raises(TypeError):
        torch.ones(3, device=device).numpy()
    assert Judge(there.module, JUDGED.on(device)).serial.top1 is not None


def test_a_program_there_is_cleaned_and_checked(device: torch.device, there: Program) -> None:
    cleaned, records = clean(there, FIT.on(device).batch(4))
    refuse_not_finite(cleaned, FIT.on(device))
    assert device_of(cleaned.module) == device_of(there.module)
    assert max(record.error or 0.0 for record in records) < 1e-4


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_a_refit_there_solves_and_judges_as_on_the_host(strength: Refit, device: torch.device, there: Program) -> None:
    plan = pairs(strength, 2)
    ours = refit(there.module, plan, FIT.on(device), HELD_OUT.on(device))
    theirs = refit(vision(2).module, plan, FIT, HELD_OUT)
    assert [level.ridge for level in ours.levels] == [level.ridge for level in theirs.levels]
    errors = [
        judge.score(found.module).relative_l2
        for judge, found in (
            (Judge(there.module, JUDGED.on(device)), ours),
            (Judge(vision(2).module, JUDGED), theirs),
        )
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_a_padded_model_of_tokens_is_refitted_there(device: torch.device) -> None:
    plan = stack_plan(5, [[[0]], [[1], [2]], [[3], [4]]], "full")

    def perplexity(program: Program, fit: Samples, held_out: Samples) -> float | None:
        found = refit(program.module, plan, fit, held_out)
        return Judge(program.module, fit, "perplexity").score(found.module).value("perplexity")

    ours = perplexity(placed(language(), device), text(40, 0).on(device), text(20, 1).on(device))
    assert ours == pytest.approx(perplexity(language(), text(40, 0), text(20, 1)), rel=1e-3)


def test_a_search_there_finds_the_plan_of_the_host(device: torch.device, there: Program) -> None:
    def plan(program: Program, fit: Samples, held_out: Samples) -> Plan:
        options = PlannerOptions(refine=1)
        return Planner(program, fit, held_out, "kl", options).at_depth(1).chosen.plan

    assert plan(there, FIT.on(device), HELD_OUT.on(device)) == plan(vision(2), FIT, HELD_OUT)


def test_what_terms_need_of_each_other_is_measured_there(device: torch.device, there: Program) -> None:
    (ours,) = sensitivity.measure(there.module, FIT.on(device), 8).stacks
    (theirs,) = sensitivity.measure(vision(2).module, FIT, 8).stacks
    torch.testing.assert_close(ours.relative_l2, theirs.relative_l2, rtol=1e-3, atol=1e-6)


def test_every_baseline_is_made_there(device: torch.device, there: Program) -> None:
    ours = baselines(there, 1, FIT.on(device), HELD_OUT.on(device), "kl", "affine")
    assert {device_of(network.module) for network in ours} == {device_of(there.module)}
    judge = Judge(there.module, JUDGED.on(device))
    assert all(judge.score(network.module).relative_l2 < 10 for network in ours)
    replaced(there.module, [((1, 1),)], FIT.on(device), HELD_OUT.on(device))


def test_a_comparison_is_built_and_healed_there(device: torch.device, there: Program) -> None:
    options = HealOptions(steps=4, batch_size=10, evaluate_every=2, train="lora")

    def healed(refitted: Refitted) -> Healed:
        plan = pairs("affine", 2)
        return heal(refitted, there.module, plan, FIT.on(device), HELD_OUT.on(device), options, device=device)

    data = FIT.on(device), HELD_OUT.on(device)
    variants = build_variants(there, pairs("affine", 2), *data, "kl", heal=healed)
    assert {device_of(network.module) for network in variants.items} == {device_of(there.module)}
    assert variants.healed is not None
    assert variants.healed.steps == 4
    assert replace(variants.healed, module=there.module).device == str(device)


@pytest.fixture
def sources(tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A model and its data, and commands that find the device where they are told to use one."""
    for home in ("parallelize.conversion.job", "parallelize.exploring.explore"):
        monkeypatch.setattr(f"{home}.choose_device", lambda _name: device)
    np.savez(tmp_path / "data.npz", images=images(60, 3).arrays["images"].numpy())
    return Source(vision(2), tmp_path / "data.npz")


@contextmanager
def _shortened_products() -> Iterator[None]:
    """What a caller may have set: products on a GPU rounded to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.slow
def test_a_conversion_there_is_written_by_the_host(sources: Source, tmp_path: Path) -> None:
    options = ConvertOptions(depth=1, rounds=1, heal=HealOptions(steps=2, evaluate_every=1, batch_size=8))
    found = set()
    with _shortened_products():
        conversion = convert(
            sources,
            tmp_path / "out",
            options=options,
            report=lambda _what, _share: found.add(torch.get_float32_matmul_precision()),
        )
    assert found == {"highest"}
    assert device_of(conversion.program.module) == CPU
    assert torch.export.load(tmp_path / "out" / "model.pt2").module()(images(2, 4).batch(2)[0]).shape == (2, 10)
    assert {network.name for network in conversion.report.networks} >= {"serial", "rewrite, refitted"}


@pytest.mark.slow
def test_a_frontier_is_searched_there_and_timed_by_the_host(sources: Source, tmp_path: Path) -> None:
    content = explore(sources, tmp_path / "out", PlanOptions(rounds=1, heatmap=True))
    assert [point["kind"] for point in content["points"]] == ["serial", "rewrite", "deletion"]
