"""What stays in fp32 is chosen by measured error, and a cast program is an ONNX file that backends take."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from torch import Tensor, nn

from benchmarks.zoo import ZOO
from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.data import Samples
from parallelize.export import precision
from parallelize.export.onnx import write_onnx
from parallelize.export.onnx_file import read_onnx
from parallelize.export.precision import CANDIDATES, KeptInFp32, cast
from parallelize.machine.mapped import is_mapped
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from parallelize.models.placement import stored
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.graph.outputs import flat_outputs
from passes.precision.cast_precision import Precision
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from tests.parallelize.small_models import images, pairs, vision
from tests.sampled import sampled

DTYPES = pytest.mark.parametrize("dtype", sampled(["fp16", "bf16"], 2))
ERROR = {"fp16": 3e-3, "bf16": 3e-2}
FP16_REORDERED = 5e-3  # two ways to sum up in fp16, relative to the largest output
ONNX_TYPE = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
FLOOR, WITH_STATE = CANDIDATES


class Growing(nn.Module):
    """(batch, 8) -> (batch, 8): a state of the size of the input times 1e5, then its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.terms = nn.ModuleList(self._mlp() for _ in range(3))
        self.norm = nn.LayerNorm(8)

    @staticmethod
    def _mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = 1e5 * x
        for norm, term in zip(self.norms, self.terms, strict=True):
            x = x + term(norm(x))
        y: Tensor = self.norm(x)
        return y


@functools.cache
def _growing() -> tuple[Program, Samples]:
    torch.manual_seed(0)
    program = capture(Growing().eval(), (torch.zeros(2, 8),), origin="growing")
    return program, Samples({"x": torch.randn(16, 8)})


# ------------------------------------------------------------------------------------------------------- choice


def test_fp32_returns_the_program_itself() -> None:
    program, record = cast(vision(), "fp32", images(4, 0))
    assert program is vision()
    assert (record.kept, record.errors, record.cast) == (None, (), None)


def test_an_overflow_is_measured_and_the_sum_stays_in_fp32() -> None:
    program, samples = _growing()
    made, record = cast(program, "fp16", samples)
    assert record.kept == WITH_STATE
    errors = dict(record.errors)
    assert errors[FLOOR] == math.inf
    assert errors[WITH_STATE] < ERROR["fp16"]
    assert all(output.isfinite().all() for output in flat_outputs(made.module, tuple(samples.arrays.values())))


@DTYPES
def test_the_errors_are_those_of_the_candidates_and_the_program_is_that_of_the_choice(dtype: Precision) -> None:
    samples = images(24, 0)
    made, record = cast(vision(), dtype, samples)
    assert [kept for kept, _ in record.errors] == list(CANDIDATES)
    assert record.metric == "relative-l2"
    inputs = tuple(samples.arrays.values())
    (ours,), (theirs,) = (flat_outputs(program.module, inputs) for program in (made, vision()))
    assert ours.dtype == torch.float32
    assert record.kept is not None
    expected = float((ours.double() - theirs).norm() / theirs.double().norm())
    assert dict(record.errors)[record.kept] == pytest.approx(expected, rel=1e-6)
    assert 0 < expected < ERROR[dtype]


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [((1.0, 1.0), 0), ((1.1, 1.0), 0), ((1.2, 1.0), 1), ((math.inf, 1.0), 1), ((0.5, 1.0), 0), ((math.inf,) * 2, 0)],
)
def test_the_cheapest_that_is_about_as_good_as_the_best_is_chosen(
    monkeypatch: pytest.MonkeyPatch, errors: Sequence[float], chosen: int
) -> None:
    remaining = iter(errors)
    monkeypatch.setattr(precision, "_error", lambda _judge, _program: next(remaining))
    _, record = cast(*_growing()[:1], "bf16", _growing()[1])
    assert record.kept == CANDIDATES[chosen]


def test_without_samples_fp16_keeps_the_sum_in_fp32_and_bf16_does_not() -> None:
    for dtype, kept in (("fp16", WITH_STATE), ("bf16", FLOOR)):
        _, record = cast(_growing()[0], dtype, None)  # type: ignore[arg-type]
        assert record.kept == kept
        assert record.errors == ()


def test_candidates_of_ones_own_may_keep_nothing() -> None:
    nothing = KeptInFp32(norms=False, softmax=False, state=False)
    _, record = cast(vision(), "bf16", images(8, 0), candidates=[nothing])
    assert record.kept == nothing
    assert record.cast is not None
    assert record.cast.skipped == ()
    assert [str(kept) for kept in (nothing, *CANDIDATES)] == [
        "nothing",
        "norms, softmaxes",
        "norms, softmaxes, residual sum",
    ]


def test_the_record_of_an_overflow_has_an_infinite_error() -> None:
    program, samples = _growing()
    record = cast(program, "fp16", samples)[1]
    assert record.kept == KeptInFp32(state=True)
    assert [math.isfinite(error) for _, error in record.errors] == [False, True]


def test_an_unknown_precision_and_no_candidates_are_refused() -> None:
    with pytest.raises(ParallelizeError, match="There is no precision 'int8'"):
        cast(vision(), "int8")  # type: ignore[arg-type]
    with pytest.raises(ParallelizeError, match="There are no candidates"):
        cast(vision(), "fp16", candidates=())


# --------------------------------------------------------------------------------------------------------- ONNX


def _named(name: str) -> tuple[Program, tuple[Tensor, ...]]:
    """A cleaned program and inputs: the small vision transformer, serial or fused, or a network of the zoo."""
    if name in ZOO:
        pytest.importorskip("transformers")
        entry = ZOO[name]
        return clean(entry.capture(torch.float32))[0], tuple(entry.inputs(torch.float32).values())
    program, inputs = clean(vision(2))[0], tuple(images(3, 1).arrays.values())
    if name == "fused":
        module, _ = run_passes(program.module, [ApplyPlan(pairs("affine", 2)), FuseWidth()])
        program = replace(program, module=module)
    return program, inputs


NAMES = [
    "fused",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("serial", "bert-eager", "llama-sdpa", "resnet-basic")),
]


@functools.cache
def _written(name: str, dtype: Precision, folder: Path) -> tuple[Program, tuple[Tensor, ...], Path]:
    program, inputs = _named(name)
    made, _ = cast(program, dtype)
    path = folder / f"{name}-{dtype}.onnx"
    write_onnx(made, path)
    return made, inputs, path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_a_cast_program_is_an_onnx_file_with_weights_of_its_dtype(name: str, dtype: Precision, folder: Path) -> None:
    made, _, path = _written(name, dtype, folder)
    model = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
    matrices = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1 and tensor.data_type != 7]
    assert {tensor.data_type for tensor in matrices} == {ONNX_TYPE[dtype]}
    types = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert {types[output] for node in products for output in node.output if output in types} == {ONNX_TYPE[dtype]}
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {onnx.TensorProto.FLOAT}
    norms = made.module.graph.find_nodes(op="call_function", target=torch.ops.aten.layer_norm.default)
    assert read_onnx(path).operators.get("LayerNormalization", 0) == len(norms)
    assert model.opset_import[0].version == (22 if dtype == "bf16" else 18)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_computes_what_the_fp16_graph_computes(name: str, folder: Path) -> None:
    made, inputs, path = _written(name, "fp16", folder)
    for ours, theirs in zip(OnnxRuntime(path, threads=1)(inputs), flat_outputs(made.module, inputs), strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < FP16_REORDERED


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_tensorrt_builds_a_strongly_typed_engine_without_a_gpu(name: str, dtype: Precision, folder: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    _, inputs, path = _written(name, dtype, folder)
    assert _build(trt, path, inputs) is not None


def _build(trt: ModuleType, path: Path, inputs: Sequence[Tensor]) -> object:
    """An engine for one shape of each input; the parser's complaints fail the test."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    assert parsed, [parser.get_error(number).desc() for number in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    for place, tensor in enumerate(inputs):
        profile.set_shape(network.get_input(place).name, *[tuple(tensor.shape)] * 3)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def test_weights_of_candidates_lie_on_disk_where_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    program, samples = _growing()
    inside, record = cast(program, "bf16", samples)
    monkeypatch.setattr("parallelize.models.on_disk.LEAST", 1)
    there, again = cast(program, "bf16", samples)
    assert (again.kept, again.errors) == (record.kept, record.errors)
    assert all(map(is_mapped, stored(there.module)))
    assert not any(map(is_mapped, stored(inside.module)))
    x = samples.batch(4)
    assert torch.equal(flat_outputs(there.module, x)[0], flat_outputs(inside.module, x)[0])
