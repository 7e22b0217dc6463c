"""What `inspect` and `build` print of ONNX files and engines: shapes, dtypes, layers, and what became one kernel.

Names are printed as `Text`: in a plain string rich would read `[profile 1]` as markup and `:key:` as an emoji.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parallelize.backends.tensorrt.layers import Layer, critical_layers, kernels, layers_of, streams
from parallelize.backends.tensorrt.sidecar import Sidecar
from parallelize.data.tensor_spec import TensorSpec
from parallelize.export.onnx_file import OnnxFile, Product

_NODES_SHOWN = 3


def wide_products(sidecar: Sidecar) -> list[dict[str, Any]]:
    """For every product that width fusion made: the engine's layers that compute it, their kinds and dtypes."""
    found = []
    for product in (product for product in sidecar.products if product.wide is not None):
        layers = layers_of(sidecar.layers, product.node)
        found.append(
            {
                "weight": product.wide,
                "shape": list(product.shape),
                "node": product.node,
                "layers": [layer.name for layer in layers],
                "kinds": [layer.kind for layer in layers],
                "dtypes": sorted({dtype for layer in layers for dtype in layer.weights}),
                "one_kernel": len(_computing(layers)) == 1,
            }
        )
    return found


def _computing(layers: Sequence[Layer]) -> list[Layer]:
    """Layers that hold the weight; others named with a node only convert or move its values."""
    holding = [layer for layer in layers if layer.weights]
    return holding or list(layers)


def engine_as_dict(sidecar: Sidecar) -> dict[str, Any]:
    """An engine as plain values."""
    return {
        "backend": sidecar.backend,
        "version": sidecar.version,
        "targets": list(sidecar.targets),
        "gpu": sidecar.gpu,
        "cuda": sidecar.cuda,
        "driver": sidecar.driver,
        "date": sidecar.date,
        "precision": sidecar.precision,
        "flags": dict(sidecar.flags),
        "inputs": [_shape(spec) for spec in sidecar.inputs],
        "outputs": [_shape(spec) for spec in sidecar.outputs],
        "profiles": [str(profile) for profile in sidecar.profiles],
        "build_seconds": sidecar.build_seconds,
        "errors": dict(sidecar.errors),
        "layers_from": sidecar.layers_from,
        "kernels": kernels(sidecar.layers),
        "critical_kernels": critical_layers(sidecar.layers),
        "streams": streams(sidecar.layers),
        "wide": wide_products(sidecar),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "dtypes": sorted({tensor.dtype or "?" for tensor in layer.outputs}),
                "weights": sorted(set(layer.weights)),
                "stream": layer.stream,
                "nodes": list(layer.nodes),
            }
            for layer in sidecar.layers
        ],
    }


def print_engine(sidecar: Sidecar, path: Path, console: Console, *, layers: bool = True) -> None:
    """Print what an engine is, its wide products, and its layers."""
    content = engine_as_dict(sidecar)
    size = path.stat().st_size / 2**20
    place = f"on {sidecar.gpu}" if sidecar.gpu else "without a GPU"
    console.print(
        Text.assemble(
            (path.name, "bold"),
            f"  {sidecar.backend} {sidecar.version}, built {place} in {sidecar.build_seconds:.1f} s for compute"
            f" capability {', '.join(sidecar.targets)}, {size:.1f} MiB",
        )
    )
    for title in ("inputs", "outputs"):
        console.print(Text(f"{title}: {', '.join(content[title])}"))
    console.print(Text(f"shapes (least / usual / largest): {'; '.join(content['profiles'])}"))
    dtypes = Counter(product.dtype for product in sidecar.products)
    spelled = ", ".join(f"{count} in {dtype}" for dtype, count in dtypes.most_common())
    tf32 = "on" if sidecar.flags.get("tf32") else "off"
    console.print(Text(f"weighted products of the ONNX: {spelled or 'none'}; TensorFloat-32 {tf32}"))
    console.print(
        Text(
            f"{content['kernels']} kernels, {content['critical_kernels']} of them wait for each other, on"
            f" {content['streams']} stream{'s' if content['streams'] != 1 else ''} (told by the {sidecar.layers_from})"
        )
    )
    for name, error in sidecar.errors.items():
        console.print(Text(f"measured, {name}: {error:.2e}"))
    _print_wide(content["wide"], console)
    if layers:
        console.print(_layer_table(content["layers"]))


def _print_wide(wide: list[dict[str, Any]], console: Console) -> None:
    if not wide:
        return
    whole = sum(product["one_kernel"] for product in wide)
    console.print(Text(f"{whole} of {len(wide)} wide products became one kernel each:"))
    table = Table()
    for heading in ("wide weight", "shape", "layer", "kind", "dtype"):
        table.add_column(heading)
    for product in wide:
        cells = (
            product["weight"],
            " x ".join(map(str, product["shape"])),
            "\n".join(product["layers"]) or "not told",
            "\n".join(product["kinds"]),
            ", ".join(product["dtypes"]) or "not told",
        )
        table.add_row(*map(Text, cells))
    console.print(table)


def _layer_table(layers: list[dict[str, Any]]) -> Table:
    table = Table()
    for heading in ("layer", "kind", "dtype", "weights", "stream", "ONNX nodes"):
        table.add_column(heading)
    for layer in layers:
        nodes = layer["nodes"]
        more = f" and {len(nodes) - _NODES_SHOWN} more" if len(nodes) > _NODES_SHOWN else ""
        cells = (
            layer["name"],
            layer["kind"],
            ", ".join(layer["dtypes"]),
            ", ".join(layer["weights"]),
            str(layer["stream"]),
            ", ".join(nodes[:_NODES_SHOWN]) + more,
        )
        table.add_row(*map(Text, cells))
    return table


def onnx_as_dict(model: OnnxFile) -> dict[str, Any]:
    """An ONNX file as plain values."""
    return {
        "model": str(model.path),
        "opset": model.opset,
        "inputs": [_shape(spec) for spec in model.inputs],
        "outputs": [_shape(spec) for spec in model.outputs],
        "external_data": [path.name for path in model.data],
        "operators": model.operators,
        "products": [vars(product) | {"shape": list(product.shape)} for product in model.products],
    }


def print_onnx(model: OnnxFile, console: Console) -> None:
    """Print what an ONNX file is: shapes, operators, and the products that width fusion made."""
    content = onnx_as_dict(model)
    console.print(Text.assemble((model.path.name, "bold"), f"  ONNX, opset {model.opset}"))
    for title in ("inputs", "outputs"):
        console.print(Text(f"{title}: {', '.join(content[title])}"))
    if content["external_data"]:
        console.print(Text(f"weights in {', '.join(content['external_data'])}"))
    operators = ", ".join(f"{count} {name}" for name, count in model.operators.items())
    console.print(Text(f"{sum(model.operators.values())} nodes: {operators}"))
    console.print(_product_table(model.products))


def _product_table(products: Sequence[Product]) -> Table:
    table = Table()
    for heading in ("product", "node", "weight", "dtype", "wide"):
        table.add_column(heading)
    for product in products:
        shape = " x ".join(map(str, product.shape))
        cells = (product.operator, product.node, shape, product.dtype, product.wide or "")
        table.add_row(*map(Text, cells))
    return table


def _shape(spec: TensorSpec) -> str:
    return f"{spec.name} {'x'.join(map(str, spec.shape))} {str(spec.dtype).removeprefix('torch.')}"
