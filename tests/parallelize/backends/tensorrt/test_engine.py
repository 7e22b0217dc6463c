"""How an engine is loaded and called, by the double of `tensorrt`: names, order, refusals; never what comes out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from parallelize.backends.tensorrt.engine import Engine
from parallelize.backends.tensorrt.profiles import Profile
from parallelize.backends.tensorrt.runner import EngineRunner
from parallelize.backends.tensorrt.sidecar import sidecar_path
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.backends.tensorrt.conftest import STREAM
from tests.parallelize.backends.tensorrt.sidecars import CONTENT, put
from tests.parallelize.backends.tensorrt.strictness import Script

Install = Callable[..., Script]
LOADING = [
    "Runtime.Runtime",
    "Runtime.deserialize_cuda_engine",
    "ICudaEngine.create_execution_context",
    "IExecutionContext.set_optimization_profile_async",
]
TWO = [((1, 8), (1, 8), (2, 8)), ((3, 8), (4, 8), (8, 8))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    put(tmp_path / "m.engine")
    return tmp_path / "m.engine"


def _refusal(call: Callable[..., Any], *arguments: Any, error: Any = ParallelizeError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("version", ["10.12.0.36", "11.4.0.106"])
def test_an_engine_is_loaded_by_names_of_both_versions_in_the_right_order(
    version: str, tmp_path: Path, install: Install
) -> None:
    script = install(version)
    put(tmp_path / "m.engine", version=version)
    engine = Engine(tmp_path / "m.engine")
    assert script.names == LOADING
    assert script.given("Runtime.deserialize_cuda_engine") == [(CONTENT,)]
    assert script.given("IExecutionContext.set_optimization_profile_async") == [(0, STREAM)]
    assert engine.inputs == (TensorSpec("x", ("batch", 8), torch.float32),)
    assert engine.outputs == (TensorSpec("y", ("batch", 4), torch.float32),)


@pytest.mark.usefixtures("gpu")
def test_a_call_sets_all_shapes_and_addresses_before_it_runs(path: Path, install: Install) -> None:
    script = install()
    engine = Engine(path)
    script.calls.clear()
    x = torch.zeros(5, 8)
    (y,) = engine([x])
    assert script.names == [
        "ICudaEngine.get_tensor_profile_shape",
        "IExecutionContext.set_input_shape",
        "IExecutionContext.set_tensor_address",
        "IExecutionContext.infer_shapes",
        "IExecutionContext.get_tensor_shape",
        "IExecutionContext.set_tensor_address",
        "IExecutionContext.execute_async_v3",
    ]
    assert script.given("IExecutionContext.set_input_shape") == [("x", (5, 8))]
    assert script.given("IExecutionContext.set_tensor_address") == [("x", x.data_ptr()), ("y", y.data_ptr())]
    assert script.given("IExecutionContext.execute_async_v3") == [(STREAM,)]
    assert (y.shape, y.dtype) == ((5, 4), torch.float32)


@pytest.mark.usefixtures("gpu")
def test_threads_take_turns_on_the_one_context(path: Path, install: Install) -> None:
    script = install()
    engine = Engine(path)
    script.calls.clear()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda count: engine([torch.zeros(count, 8)]), [1, 2, 3, 4] * 10))
    alone = script.names[: len(script.names) // 40]
    assert alone[-1] == "IExecutionContext.execute_async_v3"
    assert script.names == alone * 40


@pytest.mark.usefixtures("gpu")
def test_an_input_that_is_not_contiguous_is_copied_before_its_address_is_given(path: Path, install: Install) -> None:
    script = install()
    x = torch.zeros(8, 5).T
    Engine(path)([x])
    assert script.given("IExecutionContext.set_tensor_address")[0] != ("x", x.data_ptr())


@pytest.mark.usefixtures("gpu")
def test_a_bound_call_only_enqueues_and_returns_the_same_outputs(path: Path, install: Install) -> None:
    script = install()
    call = Engine(path).bound([torch.zeros(5, 8)])
    script.calls.clear()
    first, second = call(), call()
    assert script.names == ["IExecutionContext.execute_async_v3"] * 2
    assert first[0] is second[0]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(5, 8, device="meta"), "The input 'x' is on meta; the engine reads the memory of the GPU."),
        (torch.zeros(8, 5).T, "The input 'x' is not contiguous; the engine reads one element behind another."),
        (torch.zeros(5, 16)[:, ::2], "The input 'x' is not contiguous; the engine reads one element behind another."),
    ],
)
def test_inputs_whose_memory_the_engine_cannot_read_are_not_bound(
    x: torch.Tensor, message: str, path: Path, install: Install
) -> None:
    script = install()
    assert _refusal(Engine(path).bound, [x]) == message
    assert "IExecutionContext.set_tensor_address" not in script.names


@pytest.mark.usefixtures("gpu")
def test_a_bound_call_reads_the_memory_of_the_tensor_that_was_given(path: Path, install: Install) -> None:
    script = install()
    x = torch.zeros(5, 8)
    Engine(path).bound([x])
    assert script.given("IExecutionContext.set_tensor_address")[0] == ("x", x.data_ptr())


@pytest.mark.usefixtures("gpu")
def test_inputs_that_do_not_settle_all_shapes_are_refused_by_name(path: Path, install: Install) -> None:
    script = install(missing_shapes=["x", "lengths"])
    message = _refusal(Engine(path), [torch.zeros(1, 8)])
    assert message == "The engine cannot tell the shapes of x, lengths from these inputs."
    assert "IExecutionContext.execute_async_v3" not in script.names


@pytest.mark.usefixtures("gpu")
def test_an_output_whose_shape_depends_on_values_is_refused(path: Path, install: Install) -> None:
    install(output=(-1, 4))
    message = _refusal(Engine(path), [torch.zeros(1, 8)])
    assert message.startswith("The shape of the output 'y' depends on the values of the inputs")


@pytest.mark.usefixtures("gpu")
def test_a_dtype_that_torch_lacks_is_refused_with_the_tensor(path: Path, install: Install) -> None:
    install(output_dtype="FP8")
    assert _refusal(Engine, path) == "The tensor 'y' of the engine is FP8, which is not supported."


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("name", "dtype"), [("HALF", torch.float16), ("BF16", torch.bfloat16), ("INT64", torch.int64), ("BOOL", torch.bool)]
)
def test_outputs_are_set_aside_in_the_dtype_of_the_engine(
    name: str, dtype: torch.dtype, path: Path, install: Install
) -> None:
    install(output_dtype=name)
    (y,) = Engine(path)([torch.zeros(1, 8)])
    assert y.dtype == dtype


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "The engine reads 1 inputs, not 0."),
        ([torch.zeros(1, 8)] * 2, "The engine reads 1 inputs, not 2."),
        (
            [torch.zeros(1, 8, dtype=torch.float16)],
            "The input 'x' is torch.float16; the engine reads torch.float32.",
        ),
        (
            [torch.zeros(33, 8)],
            "The input 'x' has the shape 33x8; the engine takes x 1x8 / 1x8 / 32x8.",
        ),
        ([torch.zeros(1, 9)], "The input 'x' has the shape 1x9; the engine takes x 1x8 / 1x8 / 32x8."),
        ([torch.zeros(8)], "The input 'x' has the shape 8; the engine takes x 1x8 / 1x8 / 32x8."),
    ],
)
def test_other_inputs_than_the_engine_takes_are_refused_before_anything_is_set(
    inputs: list[torch.Tensor], message: str, path: Path, install: Install
) -> None:
    script = install()
    assert _refusal(Engine(path), inputs) == message
    assert not {"IExecutionContext.set_input_shape", "IExecutionContext.execute_async_v3"} & set(script.names)


@pytest.mark.usefixtures("gpu")
def test_profiles_switch_and_each_takes_its_own_shapes(path: Path, install: Install) -> None:
    script = install(profiles=TWO)
    engine = Engine(path, profile=1)
    assert (engine.profiles, engine.profile) == (2, 1)
    assert engine.shapes() == (Profile("x", (3, 8), (4, 8), (8, 8)),)
    engine([torch.zeros(8, 8)])
    engine.use_profile(0)
    assert "8x8; the engine takes x 1x8 / 1x8 / 2x8" in _refusal(engine, [torch.zeros(8, 8)])
    assert script.given("IExecutionContext.set_optimization_profile_async") == [(1, STREAM), (0, STREAM)]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("number", [-1, 2])
def test_a_profile_that_is_not_there_is_refused_and_the_old_one_stays(
    number: int, path: Path, install: Install
) -> None:
    install(profiles=TWO)
    engine = Engine(path)
    assert _refusal(engine.use_profile, number) == f"The engine has no profile {number}."
    assert engine.profile == 0


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("Runtime.deserialize_cuda_engine", "TensorRT 10.12.0.36 does not load m.engine: no memory."),
        ("ICudaEngine.create_execution_context", "m.engine got no execution context: no memory."),
        ("IExecutionContext.set_optimization_profile_async", "Profile 0 was refused: no memory."),
    ],
)
def test_what_the_library_refuses_to_load_becomes_a_sentence_with_its_last_words(
    refused: str, message: str, path: Path, install: Install
) -> None:
    install(refuse={refused}, words="no\n memory.")
    assert _refusal(Engine, path) == message


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("words", "reason"), [("no memory.", "no memory"), ("", "no reason was given")])
def test_an_engine_that_does_not_run_becomes_a_sentence(words: str, reason: str, path: Path, install: Install) -> None:
    install(refuse={"IExecutionContext.execute_async_v3"}, words=words)
    assert _refusal(Engine(path), [torch.zeros(1, 8)]) == f"The engine did not run: {reason}."


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("reason", ["Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context"])
def test_a_library_without_words_leaves_no_hole_in_the_sentence(reason: str, path: Path, install: Install) -> None:
    install(refuse={reason}, words="")
    assert _refusal(Engine, path).endswith(": no reason was given.")


@pytest.mark.usefixtures("gpu")
def test_leaving_the_block_frees_the_context_and_the_engine(path: Path, install: Install) -> None:
    install()
    with Engine(path) as engine:
        assert engine([torch.zeros(1, 8)])
    assert _refusal(engine, [torch.zeros(1, 8)]) == "The engine is closed."
    assert _refusal(engine.bound, [torch.zeros(1, 8)]) == "The engine is closed."
    assert vars(engine)["_context"] is vars(engine)["_engine"] is None


@pytest.mark.usefixtures("gpu")
def test_layers_are_read_of_the_context_that_runs(path: Path, install: Install) -> None:
    script = install(layers='{"Layers": ["a", "b"], "Bindings": []}')
    assert [layer.name for layer in Engine(path).layers()] == ["a", "b"]
    assert script.names[len(LOADING) :] == [
        "ICudaEngine.create_engine_inspector",
        "EngineInspector.execution_context=",
        "EngineInspector.get_engine_information",
    ]


@pytest.mark.usefixtures("gpu")
def test_an_engine_without_a_sidecar_or_of_a_foreign_hash_is_loaded_by_trust_only(path: Path, install: Install) -> None:
    script = install()
    path.write_bytes(b"another engine")
    assert "is not the engine that m.engine.json describes" in _refusal(Engine, path)
    sidecar_path(path).unlink()
    assert "a serialized engine is code" in _refusal(Engine, path)
    assert script.calls == []
    engine = Engine(path, trust=True)
    assert (engine.sidecar, engine.library.backend) == (None, "tensorrt")
    assert script.given("Runtime.deserialize_cuda_engine") == [(b"another engine",)]


@pytest.mark.usefixtures("gpu")
def test_a_trusted_engine_of_a_foreign_hash_is_loaded_without_its_sidecar(path: Path, install: Install) -> None:
    install()
    path.write_bytes(b"another engine")
    assert Engine(path, trust=True).sidecar is None


@pytest.mark.usefixtures("gpu")
def test_trust_does_not_pass_over_a_sidecar_that_matches(tmp_path: Path, install: Install) -> None:
    install()
    put(tmp_path / "m.engine", targets=("9.0",))
    message = _refusal(Engine, tmp_path / "m.engine", trust=True)
    assert "it was built for 9.0, and this GPU has 8.9" in message


@pytest.mark.usefixtures("gpu")
def test_host_code_is_allowed_to_version_compatible_engines_only(tmp_path: Path, path: Path, install: Install) -> None:
    script = install("11.4.0.106")
    put(tmp_path / "portable.engine", flags={"version_compatible": True})
    Engine(tmp_path / "portable.engine")
    allowed, loaded = "Runtime.engine_host_code_allowed=", "Runtime.deserialize_cuda_engine"
    assert script.given(allowed) == [(True,)]
    assert script.names.index(allowed) < script.names.index(loaded)
    script = install()
    Engine(path)
    assert allowed not in script.names


@pytest.mark.usefixtures("gpu")
def test_another_backend_than_the_sidecars_is_refused(path: Path, install: Install) -> None:
    script = install()
    message = _refusal(Engine, path, backend="tensorrt-rtx")
    assert message == "m.engine differs in backend: it is of tensorrt, which tensorrt-rtx does not load."
    assert script.calls == []


def test_without_a_gpu_the_engine_is_refused_before_it_is_loaded(path: Path, install: Install) -> None:
    script = install()
    message = _refusal(Engine, path, error=EnvironmentLackError)
    assert message == "m.engine runs on a GPU, and there is none here."
    assert script.calls == []


@pytest.mark.usefixtures("gpu")
def test_another_version_of_the_library_is_refused_before_the_engine_is_loaded(path: Path, install: Install) -> None:
    script = install("11.4.0.106")
    assert "differs in version: it is of tensorrt 10.12.0.36, and 11.4.0.106 is installed" in _refusal(Engine, path)
    assert script.calls == []


@pytest.mark.usefixtures("gpu")
def test_the_runner_hands_inputs_on_and_outputs_back_on_the_cpu(path: Path, install: Install) -> None:
    script = install()
    runner = EngineRunner(Engine(path))
    runner.device = torch.device("cpu")  # where the double's memory is
    assert (runner.name, [spec.name for spec in runner.inputs]) == ("tensorrt", ["x"])
    (y,) = runner([torch.zeros(2, 8)])
    assert (y.device.type, y.shape) == ("cpu", (2, 4))
    runner.bound([torch.zeros(2, 8)])()
    assert script.names.count("IExecutionContext.execute_async_v3") == 2
