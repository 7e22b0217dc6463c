"""States of samples on their way through a stack: what the teacher has there, and what the rewritten network has.

A stack is walked level by level. For each batch are kept the teacher's state before the first term that has not run,
and the rewritten network's state, both in the job's buffer; everything else is computed again from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.data.buffer import Kept
from parallelize.data.padding import layouts
from parallelize.models.effort import note_run
from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value
from passes.graph.outputs import flat_leaves
from passes.graph.parameters import read_parameter
from passes.graph.segment import extract
from passes.stacks.find import Stack
from passes.stacks.terms import Term

Inputs = tuple[Tensor, ...]
ELEMENTS = 2**25  # of the largest tensor that a batch may make


@dataclass
class Batch:
    """One batch on its way.

    Attributes:
        samples: of which this is a part; inputs are read when they are needed, and not held.
        start: the first sample.
        size: samples that go in at a time.
        count: how many of them count; the rest fills the batch up.
        teacher: the teacher's state before the first term that has not run.
        state: the rewritten network's state.
        real: (samples, tokens), or (tokens, samples) where the states are so, false at padding; None where every
            position counts.
        ahead: the teacher's states behind that one, as far as it has been run for them.
    """

    samples: Samples
    start: int
    size: int
    count: int
    teacher: Kept
    state: Kept
    real: Tensor | None = None
    ahead: Mapping[fx.Node, Kept] = field(default_factory=dict)

    @property
    def inputs(self) -> Inputs:
        """Of the model."""
        return self.samples.at(self.start, self.size)

    def keep(self, value: Tensor, share: float = 1.0) -> Kept:
        """Hold a value of this batch in the memory of the job; see `Buffer.keep`."""
        return self.samples.buffer.keep(value, share)

    def rows(self, value: Tensor, axis: int = -1) -> Tensor:
        """Every position of every sample as a row (rows, channels), padding left out."""
        channels_last = value.movedim(axis, -1)
        flat, places = channels_last.flatten(0, -2), channels_last.shape[:-1]
        if self.real is None:
            return self.samples.cut(flat, self.count)
        if places == (self.real.numel(),):
            return flat[self.real.flatten()]
        if places[:2] != self.real.shape:
            return self.samples.cut(flat, self.count)
        return flat[self.real.reshape(*self.real.shape, *[1] * (len(places) - 2)).expand(places).flatten()]


def placeholders(module: fx.GraphModule) -> list[fx.Node]:
    """The graph's input nodes."""
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def run_segment(segment: fx.GraphModule, inputs: Sequence[Any]) -> tuple[Tensor, ...]:
    """Run a segment without recording gradients."""
    note_run(segment, inputs)
    with torch.inference_mode():
        outputs: tuple[Tensor, ...] = segment(*inputs)
    return outputs


def output_tensors(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes of a network's output that are tensors, flattened."""
    return [leaf for leaf in flat_leaves(module) if tensor_value(leaf) is not None]


def outputs_from(
    module: fx.GraphModule, state: fx.Node, batches: Iterable[tuple[Inputs, Tensor]]
) -> Iterator[tuple[Tensor, ...]]:
    """The output tensors of a network that has given values at a node, whatever they come from.

    Args:
        module: the network.
        state: the node.
        batches: inputs of the model and values of the node.
    """
    rest = extract(module, [*placeholders(module), state], output_tensors(module))
    return (run_segment(rest, (*inputs, value)) for inputs, value in batches)


def batch_size(teacher: fx.GraphModule, most: int = 100, elements: int = ELEMENTS) -> int:
    """Samples at a time, so that no tensor has more than so many elements."""
    largest = max((elements_of(node) for node in teacher.graph.nodes), default=1)
    return max(1, min(most, elements // max(largest, 1)))


def elements_of(node: fx.Node) -> int:
    """Elements of a node's value for one sample, where its first size is the batch."""
    shape = getattr(node.meta.get("val"), "shape", ())
    if not shape or isinstance(shape[0], int):
        return 0
    return prod(example_size(size) for size in shape[1:])


def example_size(size: int | torch.SymInt) -> int:
    """A size as a number; a free one counts as in the captured example."""
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return 1 if hint is None else int(hint)


def start_batches(teacher: fx.GraphModule, state: fx.Node, samples: Samples, batch_size: int = 100) -> list[Batch]:
    """Run the teacher up to a state and hold it for every sample."""
    embed = extract(teacher, placeholders(teacher), [state])
    (found,) = layouts(teacher, samples, [state])
    turned = found is not None and found.samples > found.tokens
    batches, start, size = [], 0, samples.size(batch_size)
    counts, masks = samples.counts(batch_size), samples.real(batch_size)
    for inputs, count, mask in zip(samples.batches(batch_size), counts, masks, strict=True):
        value = samples.buffer.keep(run_segment(embed, inputs)[0])
        real = (
            mask
            if mask is None or samples.fixed is None
            else mask & (torch.arange(size, device=mask.device) < count)[:, None]
        )
        real = real.T if turned and real is not None else real
        batches.append(Batch(samples, start, samples.fixed or count, count, value, value, real))
        start += count
    return batches


class Teacher:
    """The unrewritten network on its way through one stack: which terms have run, and what a level should come to.

    The target after terms S have run is x_0 + sum_{j in S} f_j(teacher's x_{j-1}), the teacher's own state wherever S
    is a prefix of the stack.
    """

    def __init__(self, module: fx.GraphModule, stack: Stack, ran: Iterable[int] = ()) -> None:
        """All of `ran` are a prefix of the stack."""
        self.module, self.stack = module, stack
        self.ran = set(ran)
        self.prefix = len(self.ran)

    def values(
        self, wanted: Sequence[fx.Node], batches: Sequence[Batch], noted: Sequence[fx.Node] = ()
    ) -> Iterator[tuple[Tensor, ...]]:
        """Values of nodes of the terms from `prefix` on, batch by batch, from the nearest states that are known.

        Args:
            wanted: the nodes.
            batches: on their way.
            noted: states among them, with which a batch goes on; see `Step.ahead`.
        """
        known = [node for node in batches[0].ahead if all(node in each.ahead for each in batches)] if batches else []
        start = [*placeholders(self.module), self.stack.terms[self.prefix].skip]
        segment = extract(self.module, [*start, *known], wanted)
        reads = [bool(place.users) for place in placeholders(segment)[len(start) :]]
        for batch in batches:
            pairs = zip(known, reads, strict=True)
            ahead = [batch.ahead[node].value if is_read else None for node, is_read in pairs]
            found = run_segment(segment, (*batch.inputs, batch.teacher.value, *ahead))
            by_node = dict(zip(wanted, found, strict=True))
            batch.ahead = {**batch.ahead, **{node: batch.keep(by_node[node]) for node in noted}}
            yield found

    def step(self, terms: Iterable[int], owner: Term | None) -> Step:
        """What to compute when some more terms run; nothing has run before `take`.

        Args:
            terms: terms that have not run.
            owner: the term whose norm or activation follows the sum of the rewritten level, if one does: that sum
                should be what it maps to the target.
        """
        ran = self.ran | set(terms)
        prefix = next(number for number in range(len(ran) + 1) if number not in ran)
        if prefix == len(ran):
            last = self.stack.terms[prefix - 1]
            return Step(self.module, frozenset(ran), prefix, True, (last.result, last.total), last, owner)
        waiting = [self.stack.terms[number] for number in sorted(ran) if number >= self.prefix]
        nodes = [node for term in waiting for node in (term.result, term.skip)]
        return Step(self.module, frozenset(ran), self.prefix, False, (*nodes, waiting[-1].total), waiting[-1], owner)

    def take(self, step: Step, batches: Iterable[Batch], states: Iterable[Kept]) -> None:
        """Move on to the states that `Step.reach` returned, kept, one for each batch."""
        self.ran, self.prefix = set(step.ran), step.prefix
        later = {term.result for term in self.stack.terms[self.prefix :]}
        for batch, state in zip(batches, states, strict=True):
            batch.teacher = state
            batch.ahead = {node: kept for node, kept in batch.ahead.items() if node in later}


@dataclass(frozen=True, eq=False)
class Step:
    """The next terms of the teacher.

    Attributes:
        ran: all terms that have run then.
        prefix: how many of the first terms have.
        is_prefix: whether no others have.
        nodes: what of the teacher must be computed.
        last: the last term of `ran`.
        owner: see `Teacher.step`.
    """

    module: fx.GraphModule
    ran: frozenset[int]
    prefix: int
    is_prefix: bool
    nodes: tuple[fx.Node, ...]
    last: Term
    owner: Term | None

    @property
    def ahead(self) -> tuple[fx.Node, ...]:
        """The states among `nodes` that later steps start from: of terms that ran while earlier ones wait."""
        return () if self.is_prefix else tuple(dict.fromkeys(self.nodes[:-1:2]))

    def reach(self, batch: Batch, values: Sequence[Tensor]) -> tuple[Kept, Kept]:
        """What the sum of the rewritten level should be, and the teacher's state before the first term that waits.

        Args:
            batch: with that state as it was.
            values: of `nodes`.
        """
        *states, total = values
        if self.is_prefix:
            (state,) = states
        else:
            parts = zip(states[::2], states[1::2], strict=True)
            state = batch.teacher.value + sum(after - before for after, before in parts)
        target = state if self.owner is None else before_post(self.module, self.owner, self.last, state, total)
        known = batch.ahead.get(self.last.result) if target is state and self.is_prefix else None
        kept = batch.keep(target) if known is None else known
        if not self.is_prefix:
            return kept, batch.teacher
        return kept, kept if target is state else batch.keep(state)


def before_post(module: fx.GraphModule, owner: Term, last: Term, state: Tensor, total: Tensor) -> Tensor:
    """What the norm or activation of `owner` should read to give `state`.

    Args:
        module: the teacher.
        owner: the term whose norm follows.
        last: the term after which the teacher has `state`, or nearly.
        state: the target.
        total: the teacher's x + f(x) of `last`, before its norm: gives mean and spread, which a norm loses.

    Returns:
        `total` itself where that leads to `state`, or where what follows is no norm of the last axis.
    """
    norm = owner.norms[0]
    if len(owner.norms) > 1 or norm.target not in ops.ROW_NORMS:
        return total
    if owner is last and _is_result(module, norm, total, state):
        return total
    gain, shift = _gain_and_shift(module, norm)
    plain = torch.where(gain.abs() > 1e-6, (state - shift) / gain, torch.zeros_like(state))
    if norm.target == ops.LAYER_NORM:
        return total.mean(-1, keepdim=True) + plain * total.std(-1, correction=0, keepdim=True)
    return plain * total.square().mean(-1, keepdim=True).sqrt()


def _is_result(module: fx.GraphModule, norm: fx.Node, total: Tensor, state: Tensor) -> bool:
    """Whether the norm maps `total` to `state`."""
    source = norm.args[0]
    assert isinstance(source, fx.Node)
    (value,) = run_segment(extract(module, [source], [norm]), (total,))
    return bool((value - state).abs().max() <= 1e-4 * state.abs().max())


def _gain_and_shift(module: fx.GraphModule, norm: fx.Node) -> tuple[Tensor, Tensor]:
    stored = [arg for arg in norm.args[2:4] if isinstance(arg, fx.Node) and arg.op == "get_attr"]
    values = [read_parameter(module, node) for node in stored]
    one = torch.ones(())
    return (values[0] if values else one), (values[1] if len(values) > 1 else torch.zeros(()))
