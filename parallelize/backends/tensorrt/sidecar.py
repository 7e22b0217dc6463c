"""The file beside an engine that says what it is: `model.engine.json`.

A serialized engine is opaque, fits only some machines, and is code that runs with the user's rights. So it is loaded
only together with its sidecar, whose hash it must match, and what does not fit is named before the library is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from parallelize.backends.tensorrt.choices import Precision
from parallelize.backends.tensorrt.layers import Layer, as_plain, from_plain
from parallelize.backends.tensorrt.library import INSTALL
from parallelize.backends.tensorrt.options import PRECISIONS
from parallelize.backends.tensorrt.profiles import Profile
from parallelize.data import readable
from parallelize.data.tensor_spec import TensorSpec
from parallelize.export.onnx_file import Product, file_hash
from passes.errors import EnvironmentLackError, ParallelizeError

SCHEMA = "parallelize-engine/1"
_KINDS: dict[str, type | tuple[type, ...]] = {
    "backend": str,
    "version": str,
    "engine_sha256": str,
    "flags": dict,
    "targets": list,
    "build_seconds": (int, float),
    "errors": dict,
}
INSPECTOR, BUILDER = "engine inspector", "builder's log"


@dataclass(frozen=True)
class Sidecar:
    """What is known of an engine.

    Attributes:
        backend: that built it.
        version: of its library.
        targets: compute capabilities that it was built for; of "tensorrt" that of the GPU it was built on.
        gpu: name of that GPU, or None where it was built without one.
        cuda: version of CUDA, where known.
        driver: version of the GPU's driver, where known.
        date: when it was built, ISO 8601 in UTC.
        parallelize: version of this project.
        onnx_sha256: over the ONNX file and its external weights.
        engine_sha256: over the engine.
        precision: "fp32", "tf32", "fp16", "bf16" where it was asked for, else None: what the ONNX says.
        flags: what the builder was told, by the names of the options.
        inputs: what it reads.
        outputs: what it returns.
        profiles: the shapes that it takes.
        build_seconds: how long the build took.
        layers: its layers.
        layers_from: who told of them.
        products: the weighted products of the ONNX file, with those that width fusion made marked.
        plan: the plan of the rewrite, or None where it is not known.
        errors: measured errors by what they compare, in shares of the largest output or in the metric that is named.
        returns: what the model returned, as the ONNX says it; None of an engine that is older than this field.
    """

    backend: str
    version: str
    targets: tuple[str, ...]
    gpu: str | None
    cuda: str | None
    driver: str | None
    date: str
    parallelize: str
    onnx_sha256: str
    engine_sha256: str
    precision: Precision | None
    flags: Mapping[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Profile, ...]
    build_seconds: float
    layers: tuple[Layer, ...]
    layers_from: str
    products: tuple[Product, ...]
    plan: Mapping[str, Any] | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    returns: str | None = None

    def to_json(self) -> str:
        """As it stands beside the engine."""
        value = {"schema": SCHEMA, **asdict(replace(self, layers=(), inputs=(), outputs=()))}
        value["inputs"], value["outputs"] = _plain(self.inputs), _plain(self.outputs)
        value["layers"] = as_plain(self.layers)
        return json.dumps(value, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str) -> Sidecar:
        """Read a sidecar.

        Raises:
            ParallelizeError: not JSON, another schema, or a missing field.
        """
        hint = "Build the engine again with `parallelize build`."
        try:
            value: dict[str, Any] = json.loads(text)
            schema = value.pop("schema")
            if schema != SCHEMA:
                raise ParallelizeError(f"{name} has the schema {schema!r}, not {SCHEMA!r}.", hint)
            _check_kinds(value)
            value["inputs"], value["outputs"] = _specs(value["inputs"]), _specs(value["outputs"])
            value["layers"] = from_plain(value["layers"])
            value["targets"] = tuple(value["targets"])
            value["products"] = tuple(Product(**{**p, "shape": tuple(p["shape"])}) for p in value["products"])
            value["profiles"] = tuple(
                Profile(p["name"], tuple(p["least"]), tuple(p["usual"]), tuple(p["largest"])) for p in value["profiles"]
            )
            return cls(**value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ParallelizeError(f"{name} cannot be read: {type(error).__name__} {error}.", hint) from error


def sidecar_path(engine: Path) -> Path:
    """Where the sidecar of an engine is."""
    return engine.with_name(f"{engine.name}.json")


def read_sidecar(engine: Path) -> Sidecar:
    """The sidecar of an engine whose hash it holds.

    Raises:
        ParallelizeError: either file is missing or cannot be read, or the engine is not the one that was described.
    """
    readable(engine)
    path = sidecar_path(engine)
    if not path.is_file():
        raise ParallelizeError(
            f"{engine.name} has no {path.name} beside it, and a serialized engine is code.",
            "Build it with `parallelize build`, or load it with --trust-engine if you know where it is from.",
        )
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ParallelizeError(f"{path.name} cannot be read: {error}.", "Build the engine again.") from error
    sidecar = Sidecar.from_json(text, path.name)
    found = file_hash(engine)
    if found != sidecar.engine_sha256:
        raise ParallelizeError(
            f"{engine.name} is not the engine that {path.name} describes: engine_sha256 is {found[:12]}..., not"
            f" {sidecar.engine_sha256[:12]}....",
            "Build it again; or load it with --trust-engine if you know where it is from.",
        )
    return sidecar


def check_fits(sidecar: Sidecar, name: str, version: str, capability: str | None) -> None:
    """Refuse an engine that this machine cannot run, naming the field that differs.

    Args:
        sidecar: of the engine.
        name: of the engine's file.
        version: of the library that is installed.
        capability: of the GPU that is here, or None.

    Raises:
        EnvironmentLackError: another version, or another compute capability.
    """
    if sidecar.version != version and not sidecar.flags.get("version_compatible"):
        raise EnvironmentLackError(
            f"{name} differs in version: it is of {sidecar.backend} {sidecar.version}, and {version} is installed.",
            f"Build it again here, or install {sidecar.backend} {sidecar.version}.",
        )
    if capability is None or capability in sidecar.targets:
        return
    if sidecar.flags.get("hardware_compatibility") == "ampere+" and int(capability.split(".")[0]) >= 8:
        return
    raise EnvironmentLackError(
        f"{name} differs in compute capability: it was built for {', '.join(sidecar.targets)}, and this GPU has"
        f" {capability}.",
        "Build it again for this GPU.",
    )


def _plain(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    return [{"name": s.name, "shape": list(s.shape), "dtype": str(s.dtype).removeprefix("torch.")} for s in specs]


def _specs(values: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(v["name"], tuple(v["shape"]), _torch_dtype(v["dtype"])) for v in values)


def _torch_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")  # noqa: TRY004  # a wrong value in a file, not a wrong argument
    return dtype


def _check_kinds(value: Mapping[str, Any]) -> None:
    """Raise a ValueError for a field of another kind than what is done with it needs."""
    for name, kind in _KINDS.items():
        if name in value and not isinstance(value[name], kind):
            raise ValueError(f"{name} is {value[name]}")
    spelled: dict[str, Sequence[object]] = {"backend": [*INSTALL], "precision": (None, *PRECISIONS)}
    for name, known in spelled.items():
        if value[name] not in known:
            raise ValueError(f"{name} is {value[name]!r}")
    if not all(isinstance(error, (int, float)) for error in value.get("errors", {}).values()):
        raise ValueError("errors has something that is no number")
