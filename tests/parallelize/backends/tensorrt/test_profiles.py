"""Shapes of engines: how they are spelled, what is derived, what is refused before a builder is called."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parallelize.backends.tensorrt.profiles import Profile, Shape, ShapeOptions, choose_profiles, parse_shapes
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import ParallelizeError


def _spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, shape, torch.float32)


IMAGES = _spec("images", "batch", 3, 224, 224)
IDS = _spec("ids", "batch", "tokens")
MASK = _spec("mask", "batch", "tokens")


def _three(profile: Profile) -> tuple[Shape, Shape, Shape]:
    return profile.least, profile.usual, profile.largest


def test_several_shapes_are_read_from_commas_and_from_repeated_options() -> None:
    expected = {"a": (1, 2), "b": (3,), "c": (4, 5, 6)}
    assert parse_shapes(["a:1x2,b:3", "c:4x5x6"], "--min-shapes") == expected
    assert parse_shapes(["a:1x2", "b:3", "c:4x5x6"], "--min-shapes") == expected
    assert parse_shapes(None, "--min-shapes") == {}


@pytest.mark.parametrize("name", ["model.input.0", "serving/default/x", "x:0", "a:1x2:0", "größe", "with space"])
def test_a_name_with_dots_slashes_and_colons_ends_at_the_last_colon(name: str) -> None:
    assert parse_shapes([f"{name}:2x3"], "--opt-shapes") == {name: (2, 3)}


@pytest.mark.parametrize(
    "text", ["", "x", "x:", ":1x2", "x:1x", "x:x1", "x:1X2", "x:-1x2", "x:1*2", "x:batchx3", "x:1.5"]
)
def test_another_spelling_is_refused_with_the_option_and_the_text(text: str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        parse_shapes([text], "--max-shapes")
    assert str(caught.value) == f"--max-shapes {text!r} is no shape of a named input."
    assert caught.value.hint.startswith("Spell it as NAME:SIZExSIZE")


def test_digits_of_other_scripts_are_no_sizes() -> None:
    with pytest.raises(ParallelizeError, match="is no shape of a named input"):
        parse_shapes(["x:\u0661x\u0662"], "--min-shapes")


def test_an_input_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ParallelizeError, match=r"^--min-shapes names the input 'x' twice\.$"):
        parse_shapes(["x:1", "x:2"], "--min-shapes")


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1),
        st.lists(st.integers(0, 10**6), min_size=1, max_size=5).map(tuple),
        max_size=4,
    )
)
def test_what_is_spelled_is_read_again(shapes: dict[str, Shape]) -> None:
    text = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
    assert parse_shapes([text] if shapes else [], "--min-shapes") == shapes


def test_a_free_batch_is_derived_as_1_1_32_and_other_free_sizes_as_1_64_128() -> None:
    images, ids = choose_profiles([IMAGES, _spec("ids", "lines", "tokens")], ShapeOptions())
    assert _three(images) == ((1, 3, 224, 224), (1, 3, 224, 224), (32, 3, 224, 224))
    assert _three(ids) == ((1, 1), (1, 64), (32, 128))


def test_an_input_without_free_sizes_gets_its_own_shape() -> None:
    (scalar, fixed) = choose_profiles([_spec("scale"), _spec("x", 2, 3)], ShapeOptions())
    assert _three(scalar) == ((), (), ())
    assert _three(fixed) == ((2, 3), (2, 3), (2, 3))


def test_a_name_is_derived_by_the_axis_on_which_it_stands_first() -> None:
    ids, lengths = choose_profiles([IDS, _spec("places", "tokens", 4)], ShapeOptions())
    assert _three(ids) == ((1, 1), (1, 64), (32, 128))
    assert _three(lengths) == ((1, 4), (64, 4), (128, 4))


@pytest.mark.parametrize("order", [0, 1])
def test_an_expression_is_derived_from_the_names_in_it(order: int) -> None:
    specs = [IDS, _spec("pairs", "2*batch", "tokens + 1")]
    found = {p.name: p for p in choose_profiles(specs[::-1] if order else specs, ShapeOptions())}
    assert _three(found["ids"]) == ((1, 1), (1, 64), (32, 128))
    assert _three(found["pairs"]) == ((2, 2), (2, 65), (64, 129))


def test_an_expression_follows_the_name_that_was_given_for_another_input() -> None:
    options = ShapeOptions.fixed({"ids": (5, 7)})
    _, pairs = choose_profiles([IDS, _spec("pairs", "2*batch", "tokens + 1")], options)
    assert _three(pairs) == ((10, 8), (10, 8), (10, 8))


def test_a_name_within_an_expression_only_is_derived_too() -> None:
    (pairs,) = choose_profiles([_spec("pairs", "2*batch", 8)], ShapeOptions())
    assert _three(pairs) == ((2, 8), (2, 8), (64, 8))


def test_an_expression_that_contradicts_the_name_in_it_is_refused() -> None:
    options = ShapeOptions.fixed({"ids": (5, 7), "pairs": (9, 8)})
    with pytest.raises(ParallelizeError) as caught:
        choose_profiles([IDS, _spec("pairs", "2*batch", "tokens + 1")], options)
    assert str(caught.value) == "The least 2*batch is 9 for 'pairs', where batch is 5."
    assert caught.value.hint == "It must be 10."


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ShapeOptions(usual={"x": (4,)}), (4, 4, 4)),
        (ShapeOptions(largest={"x": (9,)}), (9, 9, 9)),
        (ShapeOptions(least={"x": (2,)}), (2, 2, 2)),
        (ShapeOptions(least={"x": (2,)}, usual={"x": (4,)}), (2, 4, 4)),
        (ShapeOptions(least={"x": (2,)}, largest={"x": (9,)}), (2, 9, 9)),
        (ShapeOptions(usual={"x": (4,)}, largest={"x": (9,)}), (4, 4, 9)),
        (ShapeOptions({"x": (2,)}, {"x": (4,)}, {"x": (9,)}), (2, 4, 9)),
    ],
)
def test_missing_options_are_taken_from_the_nearest_as_trtexec_does(
    options: ShapeOptions, expected: tuple[int, int, int]
) -> None:
    (profile,) = choose_profiles([_spec("x", "batch")], options)
    assert _three(profile) == tuple((size,) for size in expected)


def test_a_size_that_one_input_is_given_holds_for_the_others() -> None:
    options = ShapeOptions({"ids": (1, 8)}, {"ids": (2, 16)}, {"ids": (4, 32)})
    _, mask = choose_profiles([IDS, MASK], options)
    assert _three(mask) == ((1, 8), (2, 16), (4, 32))


def _refusal(specs: list[TensorSpec], options: ShapeOptions) -> tuple[str, str]:
    with pytest.raises(ParallelizeError) as caught:
        choose_profiles(specs, options)
    return str(caught.value), caught.value.hint


def test_an_unknown_input_is_refused_with_the_names_there_are() -> None:
    assert _refusal([IDS, MASK], ShapeOptions(largest={"idz": (1, 2)})) == (
        "The model has no input 'idz' to give a shape to.",
        "Its inputs are ids, mask.",
    )


def test_another_rank_is_refused_with_the_option() -> None:
    message, _ = _refusal([IMAGES], ShapeOptions({}, {}, {"images": (8, 3)}))
    assert message == "--max-shapes images:8x3 has 2 sizes; the input is batchx3x224x224."


def test_another_fixed_size_is_refused_with_its_axis() -> None:
    message, hint = _refusal([IMAGES], ShapeOptions({"images": (1, 3, 224, 224)}, {}, {"images": (8, 3, 224, 256)}))
    assert message == "--max-shapes images:8x3x224x256 has 256 on axis 3, where the model fixes 224."
    assert hint == "The input is batchx3x224x224; only words can be chosen."


@pytest.mark.parametrize("sizes", [(2, 1, 4), (1, 4, 2), (4, 2, 1), (0, 1, 1)])
def test_sizes_that_do_not_grow_or_are_zero_are_refused(sizes: tuple[int, int, int]) -> None:
    options = ShapeOptions(*({"x": (size,)} for size in sizes))
    message, hint = _refusal([_spec("x", "batch")], options)
    spelled = ", ".join(map(str, sizes))
    assert message == f"Axis 0 of 'x' is {spelled} in the least, usual and largest shape, which does not grow."
    assert "--min-shapes, --opt-shapes and --max-shapes" in hint


def test_two_sizes_of_one_free_dimension_are_refused_with_both_inputs() -> None:
    options = ShapeOptions(largest={"ids": (4, 32), "mask": (4, 31)}, usual={"ids": (4, 8), "mask": (4, 8)})
    message, hint = _refusal([IDS, MASK], options)
    assert message == "The largest tokens is 32 for 'ids' and 31 for 'mask'."
    assert hint == "Inputs that share a free dimension need the same sizes there."


def test_two_sizes_of_one_free_dimension_within_one_input_are_refused() -> None:
    message, _ = _refusal([_spec("x", "n", "n")], ShapeOptions.fixed({"x": (3, 4)}))
    assert message == "The least n is 3 for 'x' and 4 for 'x'."


def test_a_profile_holds_every_shape_between_its_ends_and_no_other() -> None:
    profile = Profile("x", (1, 8), (2, 8), (4, 8))
    assert [profile.holds((size, 8)) for size in range(6)] == [False, True, True, True, True, False]
    assert not profile.holds((2, 7))
    assert not profile.holds((2,))
    assert not profile.holds((2, 8, 1))


def test_a_profile_is_spelled_once_where_its_shapes_are_equal() -> None:
    assert str(Profile("x", (1, 8), (1, 8), (1, 8))) == "x 1x8"
    assert str(Profile("x", (1, 8), (2, 8), (4, 8))) == "x 1x8 / 2x8 / 4x8"
