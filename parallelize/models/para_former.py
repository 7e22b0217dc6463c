"""What a conversion wrote, read as a Para-Former: the wide weights of its one level are taken apart again.

    fused         a block of every branch is four products: in-projection, out-projection, up, down
    one by one    blocks kept the names of their parameters, serial or as branches that were not fused

What the weights leave open, the order of rows, the number of branches and how they are merged, is tried; what comes
nearest to the graph on random inputs is taken, and computes the same, or the network is refused. Refused are further:

 1. an embedding or a head other than paraformer's
 2. several levels, or a level in sublayer form, which is one wide block
 3. out-projections that read more than heads or hidden features, as a refit leaves them
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from paraformer.config import ParaFormerConfig, TokenConfig, VisionConfig
from paraformer.model import build
from paraformer.modes import Merge, Task
from paraformer.network import ParaFormer
from parallelize.models.program import Program
from parallelize.models.sources import LoadOptions, load_program
from passes.errors import ParallelizeError
from passes.graph.operators import ATTENTION, LINEAR, aten
from passes.graph.parameters import read_parameter

_SAMPLES, _CLOSE = 4, 1e-3  # relative to the largest output: float32 sums in another order
_ROLES = ("attention.qkv", "attention.out", "up", "down")
_PARTS = len(("query", "key", "value"))
_MERGES: tuple[Merge, ...] = ("added", "summed", "mean")
_HINT = 'Convert a model of `parallelize train` with a plan of one level in block form and "refit": "none".'

Weights = dict[str, Tensor]
Product = tuple[
    Tensor, Tensor
]  # weight and bias, of a linear (out, in) and (out,), batched (N, in, out) and (N, 1, out)


def load_para_former(model: str | os.PathLike[str] | Program) -> ParaFormer:
    """Read a directory of `convert`, a .pt2 or a program as a Para-Former in float32 and eval mode.

    Its norms are those of the graph: where they were folded into linears they are ones and zeros, and what the last
    linears of the branches add without reading anything stands in the first branch.

    Raises:
        ParallelizeError: the network is no Para-Former; the message says what stands against it.
    """
    program = model if isinstance(model, Program) else load_program(os.fspath(model), LoadOptions(), {})
    nodes = {str(node.target): node for node in program.module.graph.find_nodes(op="get_attr")}
    weights = {name: read_parameter(program.module, node).float() for name, node in nodes.items()}
    config = _around_blocks(program, weights)
    looped = {name: value for name, value in weights.items() if name.startswith("blocks.")}
    products = _products(program.module, weights)
    if looped and products:
        raise _refusal(program, "runs some of its blocks wide and others not, on several levels")
    candidates = _one_by_one(config, looped) if looped else _fused(program, config, products)
    outer = {name: value for name, value in weights.items() if name not in looped and not name.startswith("wide_")}
    models = [made for chosen, blocks in candidates if (made := _built(chosen, outer | blocks)) is not None]
    error, place = min(((_error(program, made), place) for place, made in enumerate(models)), default=(math.inf, 0))
    if not error <= _CLOSE:
        raise _refusal(program, "computes something else than branches of its blocks that all read the embedding")
    return models[place]


def _refusal(program: Program, why: str) -> ParallelizeError:
    return ParallelizeError(f"{program.origin} is no Para-Former: it {why}.", _HINT)


def _around_blocks(program: Program, weights: Mapping[str, Tensor]) -> ParaFormerConfig:
    """The sizes that embedding, head and attention tell, for one block."""
    attention = next(iter(_calls(program.module, ATTENTION)), None)
    if attention is None or not weights.keys() >= {"position", "norm.weight", "head.weight"}:
        raise _refusal(program, "does not embed and read out as one does")
    query = attention.args[0]
    assert isinstance(query, fx.Node)
    outputs, width = weights["head.weight"].shape
    sizes: dict[str, Any] = {
        "classes": outputs,
        "width": width,
        "heads": width // int(query.meta["val"].shape[-1]),
        "pooling": "cls" if "cls" in weights else "mean",
        "depth": 1,
    }
    if "token.weight" in weights:
        vocabulary, length = len(weights["token.weight"]), weights["position"].shape[1]
        task: Task = "classify" if program.outputs[0].shape[1:] == (outputs,) else "next-token"
        return TokenConfig(**sizes, vocabulary=vocabulary, length=length, task=task)
    numbers = _scale(program.module)
    image, patch = program.inputs[0].shape[-1], weights.get("patch.weight")
    if patch is None or numbers is None or not isinstance(image, int):
        raise _refusal(program, "does not embed and read out as one does")
    _, channels, _, patch_size = patch.shape
    sizes |= {"image_size": image, "patch_size": patch_size, "channels": channels}
    return VisionConfig(**sizes, pixel_mean=numbers[0], pixel_std=numbers[1])


def _scale(module: fx.GraphModule) -> tuple[float, float] | None:
    """Mean and deviation that pixels are normalised with."""
    pixels = next(iter(module.graph.find_nodes(op="placeholder")), None)
    for division in _calls(module, aten.div.Tensor):
        centred, deviation = division.args
        if not isinstance(centred, fx.Node) or centred.target != aten.sub.Tensor or centred.args[0] is not pixels:
            continue
        mean = centred.args[1]
        if isinstance(mean, int | float) and isinstance(deviation, int | float):
            return float(mean), float(deviation)
    return None


def _calls(module: fx.GraphModule, operator: Any) -> list[fx.Node]:
    return list(module.graph.find_nodes(op="call_function", target=operator))


def _products(module: fx.GraphModule, weights: Mapping[str, Tensor]) -> list[Product]:
    """The products that fusion made, in their order."""
    found = []
    for node in module.graph.nodes:
        places = {LINEAR: (1, 2), aten.baddbmm.default: (2, 0)}.get(node.target, ())
        read = [node.args[place] for place in places if place < len(node.args)]
        names = [str(value.target) for value in read if isinstance(value, fx.Node) and value.op == "get_attr"]
        if len(names) == len(places) > 0 and names[0].startswith("wide_"):
            found.append((weights[names[0]], weights[names[1]]))
    return found


def _one_by_one(config: ParaFormerConfig, looped: Weights) -> Iterator[tuple[ParaFormerConfig, Weights]]:
    """Blocks by their names, as any number of branches."""
    numbers = sorted({int(name.split(".")[1]) for name in looped})
    hidden = looped[f"blocks.{numbers[0]}.up.bias"]
    blocks = {}
    for name, value in looped.items():
        _, number, inner = name.split(".", 2)
        blocks[f"blocks.{numbers.index(int(number))}.{inner}"] = value
    depth = len(numbers)
    sizes = replace(config, depth=depth, hidden=len(hidden))
    yield sizes, blocks
    for branches in (count for count in range(2, depth + 1) if depth % count == 0):
        for merge in _MERGES:
            yield replace(sizes, mode="para-former", branches=branches, merge=merge), blocks


def _fused(
    program: Program, config: ParaFormerConfig, products: Sequence[Product]
) -> Iterator[tuple[ParaFormerConfig, Weights]]:
    """The blocks of all branches, taken apart."""
    if not products or len(products) % len(_ROLES):
        raise _refusal(program, "is not made of blocks of an attention and an MLP")
    outs = [weight for weight, _ in products[1 :: len(_ROLES)]]
    if any(weight.ndim == 2 for weight in outs):
        raise _refusal(program, "has a level in sublayer form, which is one wide block and no branches")
    count = len(outs[0])
    if any(weight.shape != (count, config.width, config.width) for weight in outs):
        raise _refusal(program, "has out-projections that read more than its heads, or several levels")
    depth = len(products) // len(_ROLES)
    hidden = products[2][0].shape[-1]
    sizes = replace(config, depth=count * depth, hidden=hidden, mode="para-former", branches=count)
    for by_branch in (True, False):
        blocks: Weights = {}
        for place in range(depth):
            row = zip(_ROLES, products[len(_ROLES) * place :], strict=False)
            for role, product in row:
                for branch, (weight, bias) in enumerate(_apart(role, product, count, by_branch=by_branch)):
                    name = f"blocks.{branch * depth + place}.{role}"
                    blocks |= {f"{name}.weight": weight, f"{name}.bias": bias}
        yield sizes, blocks | _plain_norms(sizes)


def _apart(role: str, product: Product, count: int, *, by_branch: bool) -> list[Product]:
    """Each branch's weight (out, in) and bias (out,)."""
    weight, bias = product
    if weight.ndim == bias.ndim == 3:
        return list(zip(weight.transpose(1, 2).contiguous(), bias.squeeze(1), strict=True))
    if role == "down":
        shared = torch.cat([bias[None], bias.new_zeros(count - 1, len(bias))])
        return list(zip(weight.chunk(count, 1), shared, strict=True))
    if by_branch or role != _ROLES[0]:
        return list(zip(weight.chunk(count), bias.chunk(count), strict=True))
    rows = torch.arange(len(bias)).view(_PARTS, count, -1).transpose(0, 1).reshape(count, -1)
    return [(weight[own], bias[own]) for own in rows]


def _plain_norms(config: ParaFormerConfig) -> Weights:
    """Norms that do nothing but normalise: their weights lie in what follows them."""
    ones, zeros = torch.ones(config.width), torch.zeros(config.width)
    names = [f"blocks.{number}.norm{which}" for number in range(config.depth) for which in (1, 2)]
    return {f"{name}.weight": ones for name in names} | {f"{name}.bias": zeros for name in names}


def _built(config: ParaFormerConfig, weights: Weights) -> ParaFormer | None:
    """The model of these weights; None where they do not fit its sizes."""
    model = build(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        return None
    return model.eval()


def _error(program: Program, model: ParaFormer) -> float:
    """How far the model is from the graph on random samples, of the largest output."""
    inputs = _random_inputs(program, model.config)
    with torch.no_grad():
        (expected,) = program.flat_outputs(program.module(*inputs))
        found: Tensor = model(*inputs)
    return float((found - expected).abs().max() / expected.abs().max()) if found.shape == expected.shape else math.inf


def _random_inputs(program: Program, config: ParaFormerConfig) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    length = config.input_shape[-1]
    known = {word: min(length, 8) for spec in program.inputs for word in spec.dimensions} | {"batch": _SAMPLES}
    inputs = []
    for spec in program.inputs:
        shape = spec.sizes(known)
        if spec.dtype.is_floating_point:
            inputs.append(torch.rand(shape, generator=generator).to(spec.dtype) * 255)
        elif spec.name == "attention_mask":
            inputs.append((torch.arange(shape[1]) < 1 + torch.arange(shape[0])[:, None] * 2).to(spec.dtype))
        else:
            most = config.vocabulary if isinstance(config, TokenConfig) else 2
            inputs.append(torch.randint(0, most, shape, generator=generator, dtype=spec.dtype))
    return inputs
