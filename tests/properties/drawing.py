"""Any network for Hypothesis: frozen descriptions, drawn; a share of the choices hangs on what else was drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from hypothesis import strategies as st

from tests.properties.random_convolutions import convolution_specs
from tests.properties.random_layers import EPSILONS, norm_specs
from tests.properties.random_mixing import MixKind, MixSpec
from tests.properties.random_networks import NO_NORM, Core, Mask, NetworkSpec, Post, StageSpec, State, TermSpec, Tie
from tests.properties.random_operators import is_chosen
from tests.properties.random_spellings import spelling_of
from tests.properties.random_token_terms import ParallelSpec, TokenCore, attention_specs, mlp_specs, with_operators


@st.composite
def _cores(draw: st.DrawFn, state: State, *, masks: bool, conditions: bool) -> Core:
    if state == "pixels":
        return draw(convolution_specs())
    attention, mlp = attention_specs(masks=masks), mlp_specs(conditions=conditions)
    return draw(st.one_of(attention, mlp, attention, mlp, st.builds(ParallelSpec, attention, mlp)))


@st.composite
def _stages(draw: st.DrawFn, state: State, most: int, *, masks: bool, conditions: bool) -> StageSpec:
    """From two blocks to `most`, alike but for some of another size or another epsilon."""
    placement = draw(st.sampled_from(("before", "before", "before", "before", "both", "after", "post", "none")))
    post: Post = "none"
    if state == "pixels":
        post, placement = draw(st.sampled_from(("none", "relu", "silu", "batch norm"))), "none"
    elif placement == "post":
        post = draw(st.sampled_from(("layer norm", "rms norm")))
    before = draw(norm_specs()) if placement in ("before", "both") else NO_NORM
    after = draw(norm_specs()) if placement in ("after", "both") else NO_NORM
    scale = draw(st.sampled_from(("none", "none", "gain", "one number", "constant")))
    block = tuple(
        TermSpec(draw(_cores(state, masks=masks, conditions=conditions)), before, after, scale, draw(st.booleans()))
        for _ in range(draw(st.sampled_from((1, 1, 2))))
    )
    count = draw(st.integers(2, most))
    tie: Tie = draw(st.sampled_from(("none", "none", "none", "cores", "blocks")))
    if tie != "none":
        owners = draw(st.sampled_from(((0,) * count, (*range(count - 1), 0))))
        return StageSpec((block,) * count, post, tie, owners)
    return StageSpec((block, *(draw(_variants(block)) for _ in range(count - 1))), post)


@st.composite
def _variants(draw: st.DrawFn, block: tuple[TermSpec, ...]) -> tuple[TermSpec, ...]:
    """Mostly the block itself, else one of another size or with other epsilons."""
    kind = draw(st.sampled_from(("same", "same", "same", "size", "epsilon")))
    if kind == "size":
        return tuple(replace(term, core=term.core.resized()) for term in block)
    if kind == "epsilon":
        eps = draw(st.sampled_from(EPSILONS))
        return tuple(replace(term, before=replace(term.before, eps=eps)) for term in block)
    return block


@st.composite
def networks(draw: st.DrawFn) -> NetworkSpec:
    """Any network."""
    state: State = draw(st.sampled_from(("tokens", "tokens", "tokens", "pixels")))
    mask: Mask = draw(st.sampled_from(("none", "none", "shared", "per sample", "padding")))
    condition = draw(st.sampled_from((False, False, False, True)))
    if state == "pixels":
        mask, condition = "none", False
    most = draw(st.sampled_from(((2,), (2,), (3,), (4,), (2, 2))))
    stages = [draw(_stages(state, count, masks=mask != "none", conditions=condition)) for count in most]
    width, stem, head = draw(st.sampled_from((4, 6))), draw(st.booleans()), draw(st.booleans())
    seed = draw(st.integers(0, 2**16))
    return NetworkSpec(
        state=state,
        width=width,
        stages=tuple(_respelled(stage, state, seed) for stage in stages),
        mask=mask,
        condition=condition,
        stem=stem,
        head=head,
        seed=seed,
    )


def _respelled(stage: StageSpec, state: State, seed: int) -> StageSpec:
    """The stage with other spellings, operators between layers, terms without parameters and a tap, blocks alike.

    What is chosen here hangs on what was drawn.
    """
    mixing = _mixing(stage, state, seed)
    blocks = tuple((*mixing, *_terms(block, stage, seed)) for block in stage.blocks)
    terms = sum(len(block) for block in blocks)
    tap = seed % (terms - 1) if stage.post == "none" and is_chosen((seed, "tap"), 0.3) else None
    return replace(stage, blocks=blocks, tap=tap)


def _mixing(stage: StageSpec, state: State, seed: int) -> tuple[TermSpec, ...]:
    if state == "pixels" or stage.post != "none" or not is_chosen((seed, "mixing"), 0.15):
        return ()
    return (TermSpec(MixSpec(get_args(MixKind)[seed % len(get_args(MixKind))])),)


def _terms(block: tuple[TermSpec, ...], stage: StageSpec, seed: int) -> Iterator[TermSpec]:
    for place, term in enumerate(block):
        drawn = (seed, place, stage)
        core = with_operators(term.core, drawn) if isinstance(term.core, TokenCore) else term.core
        yield replace(term, core=core, spelling=spelling_of(drawn))
