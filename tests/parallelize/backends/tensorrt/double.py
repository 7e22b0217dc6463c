"""A double of the module `tensorrt`: it knows names and the order of calls, and computes nothing.

It has exactly the names that both TensorRT 10.12 and 11 have for what this project touches (held against the symbols
of the Python bindings 10.12.0.36 and 11.4.0.106). Any other name raises an AttributeError that says why: removed in 11,
not there in 10.12 yet, or unknown. What it returns stands in for an engine and is never a result of one.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tests.parallelize.backends.tensorrt.strictness import Dims, Memory, Script, Strict, enumeration, missing

ENGINE = b"the double's engine"


class ILogger(Strict):
    Severity = enumeration("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


class IProgressMonitor(Strict):
    pass


class Builder(Strict):
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._note("Builder", logger)

    def create_network(self, flags: int = 0) -> Any:
        self._note("create_network", flags)
        return self.module.INetworkDefinition()

    def create_builder_config(self) -> Any:
        self._note("create_builder_config")
        return self.module.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        self._note("create_optimization_profile")
        return self.module.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Memory | None:
        built = self._note("build_serialized_network", network, config, says=self._logger)
        monitor = config.progress_monitor
        monitor.phase_start("build", None, 2)
        monitor.step_complete("build", 0)
        monitor.phase_finish("build")
        return Memory(ENGINE) if built else None


class INetworkDefinition(Strict):
    num_inputs = 1

    def get_input(self, index: int) -> Any:
        self._note("get_input", index)
        return self.module.ITensor()


class ITensor(Strict):
    name = "x"
    is_shape_tensor = False


class ILayer(Strict):
    pass


class OnnxParser(Strict):
    num_errors = 1

    def __init__(self, network: Any, logger: Any) -> None:
        self._note("OnnxParser", network, logger)

    def parse_from_file(self, model: str) -> bool:
        return self._note("parse_from_file", model)

    def get_error(self, index: int) -> Any:
        self._note("get_error", index)
        return self.module.ParserError()


class ParserError(Strict):
    def node_name(self) -> str:
        return "wobble"

    def node(self) -> int:
        return 0

    def node_operator(self) -> str:
        return "Wobble"

    def code(self) -> str:
        return "ErrorCode.UNSUPPORTED_NODE"

    def desc(self) -> str:
        return "no importer\n registered."


class IOptimizationProfile(Strict):
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self._note("set_shape", input, min, opt, max)


class IBuilderConfig(Strict):
    def set_flag(self, flag: Any) -> None:
        self._note("set_flag", flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._note("clear_flag", flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._note("set_memory_pool_limit", pool.name, pool_size)

    def add_optimization_profile(self, profile: Any) -> int:
        self._note("add_optimization_profile", profile)
        return 0


class IBuilderConfigOfTensorRT(IBuilderConfig):
    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        return self.module.ITimingCache() if self._note("create_timing_cache", serialized_timing_cache) else None

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return self._note("set_timing_cache", cache, ignore_mismatch)

    def get_timing_cache(self) -> Any:
        self._note("get_timing_cache")
        return self.module.ITimingCache()


class IBuilderConfigOfRTX(IBuilderConfig):
    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        return self._note("set_compute_capability", compute_capability.name, index)


class ITimingCache(Strict):
    def serialize(self) -> Memory:
        self._note("serialize")
        return Memory(b"timings")


class Runtime(Strict):
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._note("Runtime", logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        loaded = self._note("deserialize_cuda_engine", serialized_engine, says=self._logger)
        return self.module.ICudaEngine(self._logger) if loaded else None


class ICudaEngine(Strict):
    num_io_tensors = 2

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.script.profiles)

    def create_execution_context(self) -> Any:
        made = self._note("create_execution_context", says=self._logger)
        return self.module.IExecutionContext(self._logger) if made else None

    def create_engine_inspector(self) -> Any:
        self._note("create_engine_inspector")
        return self.module.EngineInspector()

    def get_tensor_name(self, index: int) -> str:
        return ("x", "y")[index]

    def get_tensor_shape(self, name: str) -> Dims:
        return {"x": Dims(-1, 8), "y": Dims(-1, 4)}[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self.module.DataType, {"x": "FLOAT", "y": self.script.output_dtype}[name])

    def get_tensor_mode(self, name: str) -> Any:
        return {"x": self.module.TensorIOMode.INPUT, "y": self.module.TensorIOMode.OUTPUT}[name]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        self._note("get_tensor_profile_shape", name, profile_index)
        return [Dims(*shape) for shape in self.script.profiles[profile_index]]


class IExecutionContext(Strict):
    def __init__(self, logger: Any) -> None:
        self._logger, self._batch = logger, -1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        return self._note("set_optimization_profile_async", profile_index, stream_handle, says=self._logger)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._batch = shape[0]
        return self._note("set_input_shape", name, shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        return self._note("set_tensor_address", name, memory)

    def infer_shapes(self) -> list[str]:
        self._note("infer_shapes")
        return self.script.missing_shapes

    def get_tensor_shape(self, name: str) -> Dims:
        self._note("get_tensor_shape", name)
        return Dims(*(self.script.output or (self._batch, 4)))

    def execute_async_v3(self, stream_handle: int) -> bool:
        return self._note("execute_async_v3", stream_handle, says=self._logger)


class EngineInspector(Strict):
    def get_engine_information(self, format: Any) -> str:  # noqa: A002
        self._note("get_engine_information", format.name)
        return self.script.layers


def _classes(script: Script, module: ModuleType, *, rtx: bool) -> dict[str, Any]:
    """The classes by their names in the module, all of which write into this script."""
    bases = [Builder, INetworkDefinition, ITensor, ILayer, OnnxParser, ParserError, IOptimizationProfile, ITimingCache]
    bases += [Runtime, ICudaEngine, IExecutionContext, EngineInspector, ILogger, IProgressMonitor]
    named = {base.__name__: base for base in bases}
    named["IBuilderConfig"] = IBuilderConfigOfRTX if rtx else IBuilderConfigOfTensorRT
    return {
        name: type(base)(name, (base,), {"script": script, "owner": name, "module": module})
        for name, base in named.items()
    }


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        raise missing("tensorrt", name)


def make_double(script: Script, version: str = "10.12.0.36", *, rtx: bool = False) -> ModuleType:
    """The module; that of TensorRT for RTX has compute capabilities by name, and no timing cache to touch."""
    module = _Module("tensorrt_rtx" if rtx else "tensorrt")
    names = _classes(script, module, rtx=rtx)
    enums = {
        "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
        "BuilderFlag": ("TF32", "VERSION_COMPATIBLE"),
        "MemoryPoolType": ("WORKSPACE",),
        "ProfilingVerbosity": ("LAYER_NAMES_ONLY", "NONE", "DETAILED"),
        "HardwareCompatibilityLevel": ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
        "LayerInformationFormat": ("ONELINE", "JSON"),
        "TensorIOMode": ("NONE", "INPUT", "OUTPUT"),
        "DataType": ("FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64"),
    }
    if rtx:
        enums["ComputeCapability"] = ("NONE", "CURRENT", "SM75", "SM80", "SM89")
    vars(module).update(
        names, __version__=version, **{name: enumeration(name, *members) for name, members in enums.items()}
    )
    return module
