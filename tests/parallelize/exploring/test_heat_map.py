"""Heat maps are written whole, alike for alike values, for stacks of one term to hundreds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parallelize.exploring.heat_map import draw
from parallelize.exploring.sensitivity import Sensitivity, StackSensitivity
from passes.errors import EnvironmentLackError, ParallelizeError
from passes.stacks.find import Kind


def _sensitivity(*counts: int, kinds: tuple[Kind, ...] = ("attention", "mlp")) -> Sensitivity:
    generator = torch.Generator().manual_seed(0)
    stacks = []
    for number, count in enumerate(counts):
        matrix = torch.rand(count, count, generator=generator, dtype=torch.float64).tril(-1)
        repeated = tuple(kinds[term % len(kinds)] for term in range(count))
        names = tuple(f"blocks.{term}" for term in range(count))
        stacks.append(StackSensitivity(f"stack{number}", names, repeated, matrix, matrix / 2))
    return Sensitivity(tuple(stacks), 64)


@pytest.mark.parametrize(
    "counts", [(1,), (12, 3), *(pytest.param((count,), marks=pytest.mark.slow) for count in (12, 60, 130))]
)
def test_a_picture_is_written_for_stacks_of_every_size(counts: tuple[int, ...], tmp_path: Path) -> None:
    draw(_sensitivity(*counts), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_the_axes_name_every_term_by_its_kind_and_number(tmp_path: Path) -> None:
    draw(_sensitivity(12, kinds=("attention", "mlp", "convolution")), tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text(encoding="utf-8")
    labels = [f"{letter}{3 * block + place}" for block in range(4) for place, letter in enumerate("AMC")]
    assert all(f"<!-- {label} -->" in text for label in labels)
    assert all(f"<!-- {legend} -->" in text for legend in ("A  attention", "M  mlp", "C  convolution"))
    assert "<!-- O  other -->" not in text
    assert "<!-- stack0: relative change -->" in text
    assert "<!-- stack0: cosine distance -->" in text


def test_kinds_have_the_colours_of_the_diagrams(tmp_path: Path) -> None:
    from parallelize.inspecting.diagram_svg import COLOURS

    draw(_sensitivity(12), tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text(encoding="utf-8")
    assert COLOURS["attention"][0] in text
    assert COLOURS["mlp"][0] in text
    assert COLOURS["convolution"][0] not in text


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_equal_values_give_equal_bytes_and_replace_an_earlier_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"map{suffix}"
    draw(_sensitivity(12), path)
    first = path.read_bytes()
    draw(_sensitivity(12), path)
    assert path.read_bytes() == first
    draw(_sensitivity(13), path)
    assert path.read_bytes() != first


def test_a_matrix_of_zeros_is_drawn(tmp_path: Path) -> None:
    zeros = torch.zeros(4, 4, dtype=torch.float64)
    stack = StackSensitivity("blocks $x$", ("a", "b", "c", "d"), ("other",) * 4, zeros, zeros)
    draw(Sensitivity((stack,), 1), tmp_path / "map.SVG")
    assert "blocks $x$: relative change" in (tmp_path / "map.SVG").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["map.pdf", "map", "map.svg.gz"])
def test_another_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match=f"A heat map cannot be written as '{name}'") as refused:
        draw(_sensitivity(3), tmp_path / name)
    assert refused.value.hint == "End the name in one of .svg, .png."


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(EnvironmentLackError, match="cannot be written"):
        draw(_sensitivity(3), tmp_path / "file" / "map.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
