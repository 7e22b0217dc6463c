"""Where networks part: a planted error is found at its level, in programs, ONNX files and rewrites."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paraformer.model import VisionParaFormer
from parallelize.backends.artefact import parse_artefact
from parallelize.export.onnx import write_onnx
from parallelize.measuring.by_level import LevelErrors
from parallelize.measuring.compare import compare
from parallelize.measuring.compare_report import as_dict, notes
from parallelize.measuring.options import CompareOptions
from parallelize.models.capture import export
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.plan import Plan
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from tests.parallelize.small_models import SMALL, capture_images, pairs, stack_plan, vision
from tests.parallelize.written import write
from tests.sampled import sampled

LEVELS = CompareOptions(by_level=True, threshold=1e-3)


def model(bad_block: int | None = None) -> VisionParaFormer:
    """A small vision transformer, one block of which may have a wrong weight."""
    torch.manual_seed(0)
    made = VisionParaFormer(SMALL)
    if bad_block is not None:
        with torch.no_grad():
            made.blocks[bad_block].down.weight[0, 0] += 5
    return made


def levels_of(*artefacts: Program | Path, options: CompareOptions = LEVELS) -> LevelErrors:
    found = compare(*artefacts, options=options).networks[0].levels
    assert found is not None
    return found


@functools.cache
def _files(plan: Plan) -> dict[str, bytes]:
    module, _ = run_passes(vision().module, [ApplyPlan(plan), FuseWidth()])
    rewritten = replace(vision(), module=module)
    with tempfile.TemporaryDirectory() as folder:
        torch.export.save(export(rewritten), f"{folder}/model.pt2")
        write_onnx(rewritten, Path(folder) / "model.onnx")
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def converted(directory: Path, plan: Plan) -> Path:
    """What matters here of a directory of `convert`, of the small vision transformer."""
    directory.mkdir()
    for name, content in _files(plan).items():
        (directory / name).write_bytes(content)
    (directory / "plan.json").write_text(plan.to_json())
    return directory


@pytest.mark.parametrize("bad", sampled([SMALL.depth - 1, 0], 2))
def test_a_planted_error_is_found_at_its_level(bad: int) -> None:
    found = levels_of(capture_images(model()), capture_images(model(bad)))
    assert found.first is not None
    assert found.first.terms == 2 * bad + 2
    assert f"(mlp, blocks.{bad})" in str(found.first)
    assert [level.error for level in found.levels[: 2 * bad + 2]] == [0.0] * (2 * bad + 2)


@pytest.mark.slow
def test_it_is_found_in_an_onnx_file_as_well(tmp_path: Path) -> None:
    write_onnx(capture_images(model(2)), tmp_path / "bad.onnx")
    for reference in (vision(), write(tmp_path / "good.onnx")):
        found = levels_of(reference, tmp_path / "bad.onnx")
        assert found.first is not None
        assert found.first.terms == 6
        assert max(level.error for level in found.levels[:6]) < 1e-5


def test_equal_networks_part_nowhere() -> None:
    found = levels_of(vision(), copy.copy(vision()))
    assert (found.first, found.note, len(found.levels)) == (None, "", 9)


@pytest.mark.slow
def test_a_rewrite_has_the_states_after_whole_groups(tmp_path: Path) -> None:
    groups = stack_plan(8, [[[0]], [[1]], [[2], [4]], [[3], [5]], [[6]], [[7]]], "none")
    out = converted(tmp_path / "out", groups)
    found = levels_of(vision(), out)
    assert [level.terms for level in found.levels] == [0, 1, 2, 6, 7, 8]
    assert max(level.error for level in found.levels[:3]) < 1e-6
    assert found.first is not None
    assert found.first.terms == 6
    assert "6 of 9 compared" in found.note


def test_a_rewrite_and_its_onnx_have_every_level(tmp_path: Path) -> None:
    out = converted(tmp_path / "out", pairs("none"))
    found = levels_of(out, out / "model.onnx")
    assert [str(level).split(": ")[1] for level in found.levels] == [
        "entry",
        *(f"after level {n}" for n in range(1, 5)),
    ]
    assert found.first is None


def test_a_rewrite_without_its_plan_has_only_ends_in_common(tmp_path: Path) -> None:
    out = converted(tmp_path / "out", pairs("none"))
    (out / "plan.json").unlink()
    found = levels_of(vision(), out)
    assert [str(level).split(": ")[1] for level in found.levels] == ["entry", "exit"]
    assert "only their first and last states" in found.note


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    out = converted(tmp_path / "out", pairs("none"))
    with pytest.raises(ParallelizeError, match=r"is for 8 terms, small has 12"):
        levels_of(vision(6), out)


def test_a_plan_that_the_graph_does_not_follow_is_refused(tmp_path: Path) -> None:
    out = converted(tmp_path / "out", pairs("none"))
    (out / "plan.json").write_text(stack_plan(8, [[[n]] for n in range(8)], "none").to_json())
    with pytest.raises(ParallelizeError, match=r"its graph has 4 terms, its plan\.json 8 levels"):
        levels_of(vision(), out)


def test_engines_and_compiled_programs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"")
    with pytest.raises(ParallelizeError, match="is an engine: the values inside cannot be read"):
        levels_of(vision(), tmp_path / "model.engine")
    torch.export.save(export(vision()), tmp_path / "model.pt2")
    with pytest.raises(ParallelizeError, match="is compiled"):
        compare(vision(), f"{tmp_path}/model.pt2@torch-compile", options=LEVELS)


def test_another_number_of_stacks_is_refused(tmp_path: Path) -> None:
    from parallelize.models.capture import capture
    from tests.parallelize.small_models import Residual, TwoStacks, mlp

    one = capture(Residual([mlp(6, 12) for _ in range(7)]).eval(), (torch.zeros(2, 6),), origin="one")
    two = capture(TwoStacks().eval(), (torch.zeros(2, 6),), origin="two")
    with pytest.raises(ParallelizeError, match="two has 2 residual stacks, one has 1"):
        levels_of(one, two)


def test_nan_counts_as_parted_and_json_has_no_infinity() -> None:
    broken = model()
    with torch.no_grad():
        broken.blocks[1].down.weight[0, 0] = float("nan")
    result = compare(capture_images(model()), capture_images(broken), options=LEVELS)
    content = as_dict(result)
    levels = content["networks"][0]["levels"]
    assert (levels["first"]["terms"], levels["first"]["error"]) == (4, None)
    json.dumps(content, allow_nan=False)
    assert any("parts from the reference at blocks: after term 4" in note for note in notes(result))


def test_a_plan_beside_a_file_of_another_name_is_not_its_own(tmp_path: Path) -> None:
    out = converted(tmp_path / "out", pairs("none"))
    (out / "model.pt2").rename(out / "other.pt2")
    assert parse_artefact(out / "other.pt2").plan is None
