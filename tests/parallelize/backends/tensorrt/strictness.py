"""What the double of `tensorrt` refuses and records: names that one supported version lacks, and calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

REMOVED: dict[str, tuple[str, ...]] = {
    "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH",),
    "BuilderFlag": (
        *("FP16", "BF16", "INT8", "FP8", "INT4", "FP4", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"),
        *("REJECT_EMPTY_ALGORITHMS", "WEIGHTLESS"),
    ),
    "ITensor": ("dynamic_range", "set_dynamic_range", "reset_dynamic_range"),
    "IBuilderConfig": (
        *("int8_calibrator", "set_calibration_profile", "get_calibration_profile", "quantization_flags"),
        *("set_quantization_flag", "get_quantization_flag", "clear_quantization_flag", "algorithm_selector"),
    ),
    "Builder": ("platform_has_fast_fp16", "platform_has_fast_int8", "platform_has_tf32"),
    "ICudaEngine": (
        *("device_memory_size", "get_device_memory_size_for_profile", "weight_streaming_budget"),
        *("minimum_weight_streaming_budget", "has_implicit_batch_dimension"),
        "create_execution_context_without_device_memory",
    ),
    "IExecutionContext": ("all_shape_inputs_specified",),
    "OnnxParser": ("supports_model", "parse_with_weight_descriptors"),
    "tensorrt": (
        *("QuantizationFlag", "IInt8Calibrator", "IInt8EntropyCalibrator", "IInt8EntropyCalibrator2"),
        *("IInt8LegacyCalibrator", "IInt8MinMaxCalibrator", "CalibrationAlgoType", "IStreamReader"),
        *("IAlgorithm", "IAlgorithmContext", "IAlgorithmIOInfo", "IAlgorithmSelector", "IAlgorithmVariant"),
    ),
}
LATER: dict[str, tuple[str, ...]] = {  # than 10.12
    "IBuilderConfig": ("build_route", "all_build_routes"),
    "INetworkDefinition": ("add_attention", "add_attention_v2", "add_moe", "add_kv_cache_update"),
    "OnnxParser": ("load_model_proto", "load_initializer", "parse_model_proto"),
    "ICudaEngine": ("get_engine_stat",),
    "IExecutionContext": ("set_communicator",),
    "tensorrt": ("CausalMaskKind", "AttentionIOForm"),
}
OF_RTX: dict[str, tuple[str, ...]] = {
    "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability", "get_compute_capability"),
    "Runtime": ("get_engine_validity", "engine_header_size"),
    "IExecutionContext": ("is_stream_capturable",),
    "tensorrt": ("ComputeCapability",),
}
_SETTABLE = {
    "IBuilderConfig": (
        *("profiling_verbosity", "builder_optimization_level", "max_aux_streams", "progress_monitor"),
        *("hardware_compatibility_level", "num_compute_capabilities"),
    ),
    "Runtime": ("engine_host_code_allowed",),
    "EngineInspector": ("execution_context",),
}


def missing(owner: str, name: str) -> AttributeError:
    """What touching a name that is not there raises."""
    reasons = {"removed in TensorRT 11": REMOVED, "not in TensorRT 10.12": LATER, "in TensorRT for RTX only": OF_RTX}
    why = [reason for reason, names in reasons.items() if name in names.get(owner, ())]
    return AttributeError(f"{owner}.{name} was touched: {why[0] if why else 'no name of the double'}")


@dataclass
class Script:
    """What the double is to do, and what was done with it.

    Attributes:
        calls: names such as "Builder.create_network" with their arguments; a property that is set ends in "=".
        refuse: names of calls that return False, or None where an object is expected.
        words: what is logged as an error by a call that is refused.
        missing_shapes: what `infer_shapes` returns.
        output: sizes of the output; None is (batch, 4).
        output_dtype: a name of `DataType`.
        layers: what the inspector says.
        profiles: the three shapes of x, for each profile.
    """

    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)
    words: str = "Error Code 4: something is wrong."
    missing_shapes: list[str] = field(default_factory=list)
    output: tuple[int, ...] | None = None
    output_dtype: str = "FLOAT"
    layers: str = '{"Layers": [], "Bindings": []}'
    profiles: list[tuple[tuple[int, ...], ...]] = field(default_factory=lambda: [((1, 8), (1, 8), (32, 8))])

    @property
    def names(self) -> list[str]:
        """The names of the calls in their order."""
        return [name for name, _ in self.calls]

    def given(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of that name."""
        return [arguments for called, arguments in self.calls if called == name]


def enumeration(name: str, *members: str) -> Any:
    """An enumeration of bindings: converts to an int, is spelled Name.MEMBER, has no other member.

    Its numbers begin at 5, so that nobody gets far with a number of his own.
    """

    class StrictEnum(type(Enum)):  # type: ignore[misc]
        def __getattr__(cls, member: str) -> Any:
            raise missing(cls.__name__, member)

    class Base(Enum, metaclass=StrictEnum):
        def __int__(self) -> int:
            return int(self.value)

    return Base(name, {member: number for number, member in enumerate(members, 5)})


class StrictType(type):
    def __getattr__(cls, name: str) -> Any:
        raise missing(cls.owner, name)


class Strict(metaclass=StrictType):
    """Nothing can be read or set that the bindings do not have; a subclass of the caller may set its own."""

    owner: str
    script: Script
    module: Any

    def __getattr__(self, name: str) -> Any:
        raise missing(self.owner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        ours = "script" in vars(type(self)) and not name.startswith("_")
        if ours and name not in _SETTABLE.get(self.owner, ()):
            raise missing(self.owner, name)
        if ours:
            self.script.calls.append((f"{self.owner}.{name}=", (value,)))
        object.__setattr__(self, name, value)

    def _note(self, name: str, *arguments: Any, says: Any = None) -> bool:
        """Record a call; whether it succeeds, with a word to the logger where not."""
        called = f"{self.owner}.{name}"
        self.script.calls.append((called, arguments))
        if called in self.script.refuse and says is not None and self.script.words:
            says.log(type(says).Severity.ERROR, self.script.words)
        return called not in self.script.refuse


class Memory:
    """IHostMemory: a buffer."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __bytes__(self) -> bytes:
        return self._content


class Dims:
    """Dims: neither a tuple nor a list."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = sizes

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)
