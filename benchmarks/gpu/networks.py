"""The networks of the latency study: models of real sizes with random weights, and what the compiler makes of them.

Latency does not depend on the values of the weights, so no checkpoint is needed; the rewrites are those of the product
itself: captured, scheduled in equal groups of neighbouring blocks, and fused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from parallelize.models.program import Program
from passes.graph.measures import critical_gemms
from passes.plan import Level, Plan, StackPlan, grouped, serial
from passes.registry import FUSION
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.stacks.find import Stack, find_stacks

SERIAL = "serial"


@dataclass(frozen=True)
class Family:
    """One model, whole.

    Attributes:
        name: as the tables call it.
        build: makes the module, in float32 on the CPU.
        feed: makes the input for a batch.
        blocks: of its one stack.
        depths: in blocks, of the rewrites.
    """

    name: str
    build: Callable[[], nn.Module]
    feed: Callable[[int], Tensor]
    blocks: int
    depths: tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """One candidate: what it is called, how many blocks deep it is, its graph."""

    label: str
    depth: int
    program: Program

    @property
    def gemms(self) -> int:
        """Matrix products that wait for each other."""
        return critical_gemms(self.program.module)


def families(*, small: bool) -> Iterator[Family]:
    """ViT-Tiny, -Small and -Base on 197 tokens, BERT-Base on 128 and MiniLM-L6 on 32; or one tiny ViT."""
    if small:
        yield _vit("ViT-Nano", 64, 2, 4, (2, 1))
        return
    depths = (6, 4, 3, 2, 1)
    yield _vit("ViT-Tiny", 192, 3, 12, depths)
    yield _vit("ViT-Small", 384, 6, 12, depths)
    yield _vit("ViT-Base", 768, 12, 12, depths)
    yield _bert("BERT-Base", 768, 12, 12, 128, depths)
    yield _bert("MiniLM-L6", 384, 12, 6, 32, (3, 2, 1))


def _vit(name: str, width: int, heads: int, blocks: int, depths: tuple[int, ...]) -> Family:
    def build() -> nn.Module:
        from transformers import ViTConfig, ViTModel

        sizes = {"hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": heads}
        return ViTModel(ViTConfig(**sizes, intermediate_size=4 * width), add_pooling_layer=False)

    return Family(name, build, lambda batch: torch.randn(batch, 3, 224, 224), blocks, depths)


def _bert(name: str, width: int, heads: int, blocks: int, tokens: int, depths: tuple[int, ...]) -> Family:
    def build() -> nn.Module:
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": heads}
        return BertModel(BertConfig(**sizes, intermediate_size=4 * width), add_pooling_layer=False)

    return Family(name, build, lambda batch: torch.randint(1000, 30000, (batch, tokens)), blocks, depths)


def captured(module: nn.Module, example: Tensor, device: str, dtype: torch.dtype) -> Program:
    """A cleaned program that runs on `device` in `dtype`."""
    module = module.eval().to(device, dtype)
    example = example.to(device, dtype if example.is_floating_point() else None)
    return clean(capture(module, (example,)))[0]


def rewrites(family: Family, device: str, dtype: torch.dtype) -> Iterator[Network]:
    """Serial; every depth fused; the two shallowest depths unfused, and with blocks deleted instead."""
    program = captured(family.build(), family.feed(2), device, dtype)
    stacks = find_stacks(program.module).stacks
    (stack,) = stacks
    if len(stack.blocks) != family.blocks:
        raise RuntimeError(f"{family.name}: {len(stack.blocks)} blocks were found, not {family.blocks}")
    yield Network(SERIAL, family.blocks, program)
    for depth in family.depths:
        plan = Plan((side_by_side(stack, depth),))
        unfused, _ = run_passes(program.module, [ApplyPlan(plan)])
        fused, (record, *_) = run_passes(unfused, FUSION)
        if record.skipped:
            raise RuntimeError(f"{family.name} at depth {depth} was not fused: {record.skipped[0].reason}")
        yield Network(f"depth {depth}", depth, replace(program, module=fused))
        if depth in family.depths[-3::2]:
            yield Network(f"depth {depth}, unfused", depth, replace(program, module=unfused))
            deleted, _ = run_passes(program.module, [ApplyPlan(Plan((first_blocks(stack, depth),)))])
            yield Network(f"depth {depth}, deleted", depth, replace(program, module=deleted))


def side_by_side(stack: Stack, depth: int) -> StackPlan:
    """Equal groups of neighbouring blocks in sublayer form; norms after the sum are shared."""
    size = -(-len(stack.blocks) // depth)
    groups = [stack.blocks[start : start + size] for start in range(0, len(stack.blocks), size)]
    plan = grouped(len(stack.terms), groups)
    has_norms = all(term.post for term in stack.terms)
    levels = tuple(Level(level.chains, shared=has_norms and len(level.chains) > 1) for level in plan.levels)
    return replace(plan, levels=levels)


def first_blocks(stack: Stack, depth: int) -> StackPlan:
    """The first blocks alone: which ones are deleted does not matter to latency."""
    kept = sum(len(block) for block in stack.blocks[:depth])
    return replace(serial(len(stack.terms)), levels=serial(len(stack.terms)).levels[:kept])


def para_formers(branches: int, device: str, dtype: torch.dtype) -> Iterator[Network]:
    """A Para-Former of one-block branches, fused and unfused, and its serial twin of as many blocks."""
    sizes = {"image_size": 224, "patch_size": 16, "channels": 3, "width": 192, "heads": 3, "hidden": 768}
    example = torch.randn(2, 3, 224, 224)
    twin = VisionParaFormer(VisionConfig(**sizes, depth=branches, mode="serial"))
    yield Network(SERIAL, branches, captured(twin, example, device, dtype))
    wide = VisionParaFormer(VisionConfig(**sizes, depth=branches, mode="para-former", branches=branches))
    program = captured(wide, example, device, dtype)
    fused, _ = run_passes(program.module, FUSION)
    yield Network("Para-Former, unfused", 1, program)
    yield Network("Para-Former, fused", 1, replace(program, module=fused))
