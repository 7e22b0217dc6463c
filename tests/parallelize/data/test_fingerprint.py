"""The identity of a run changes with whatever its result depends on, and with nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import fx, nn

from parallelize.data import Feed, Samples
from parallelize.data.fingerprint import run_identity

SAMPLES = Samples({"x": torch.arange(6.0).reshape(3, 2), "mask": torch.ones(3, 2, dtype=torch.bool)})


def teacher(operator: object = torch.relu) -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(operator, (graph.call_module("layer", (x,)),)))  # type: ignore[arg-type]
    root = nn.Module()
    root.layer = nn.Linear(2, 2)
    nn.init.ones_(root.layer.weight)
    nn.init.zeros_(root.layer.bias)
    root.register_buffer("count", torch.tensor(3))
    return fx.GraphModule(root, graph)


def identity(module: fx.GraphModule | None = None, samples: Samples = SAMPLES, options: str = "") -> str:
    return run_identity(module or teacher(), [samples], options)


def test_the_same_run_has_the_same_identity_wherever_its_numbers_lie() -> None:
    again = Samples({name: array.T.contiguous().T for name, array in SAMPLES.stored.items()})
    assert identity() == identity(samples=again)
    assert identity() == identity(copy.deepcopy(teacher()))


def test_which_gpu_a_graph_is_on_is_not_in_it() -> None:
    def on(device: str) -> fx.GraphModule:
        graph = fx.Graph()
        target = torch.ops.aten.arange.default
        graph.output(graph.call_function(target, (4,), {"device": torch.device(device)}))
        return fx.GraphModule(nn.Module(), graph)

    assert identity(on("cuda:0")) == identity(on("cuda:1")) == identity(on("cuda"))
    assert identity(on("cpu")) != identity(on("cuda:0"))


def test_graph_weights_and_options_are_in_it() -> None:
    moved = teacher()
    with torch.no_grad():
        moved.layer.weight[0, 0] += 1e-7
    half = teacher()
    half.layer.bfloat16()
    found = {identity(), identity(moved), identity(half), identity(teacher(torch.tanh)), identity(options="x")}
    assert len(found) == 5


def test_values_masks_labels_feeds_and_the_choice_of_samples_are_in_it() -> None:
    stored = SAMPLES.stored
    others = [
        SAMPLES,
        replace(SAMPLES, stored={**stored, "x": stored["x"] + 1}),
        replace(SAMPLES, stored={**stored, "x": stored["x"].double()}),
        replace(SAMPLES, stored={**stored, "x": stored["x"].reshape(1, 3, 2)}),
        replace(SAMPLES, stored={"y": stored["x"], "mask": stored["mask"]}),
        replace(SAMPLES, mask="mask"),
        replace(SAMPLES, labels=torch.tensor([0, 1, 2])),
        replace(SAMPLES, feeds={"mask": Feed(rows=0)}),
        SAMPLES.take([0, 1]),
        SAMPLES.take([1, 0]),
    ]
    assert len({identity(samples=samples) for samples in others}) == len(others)


def test_the_order_of_the_parts_is_in_it() -> None:
    fit, judge = SAMPLES.take([0, 1]), SAMPLES.take([2])
    assert run_identity(teacher(), [fit, judge], "") != run_identity(teacher(), [judge, fit], "")
