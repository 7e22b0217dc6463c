"""The sections of docs/para-former.md on time: against layers, and where it begins to grow with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.rows import table_row
from benchmarks.study.markdown import heading, prose, table
from benchmarks.study.numbers import on_h200
from benchmarks.study.runs import Results, Scale

_SHOWN = {f"branches, N = {n}": str(n) for n in (1, 8, 32)}


def layers(results: Results, _scale: Scale) -> Iterator[str]:
    """On the CPU, kernels of engines, on a GPU."""
    wide = results.get("time/wide")
    if wide is None:
        return
    yield from heading("Time against the number of layers")
    yield "![time against layers](para-former-time.svg)"
    yield ""
    yield from prose(
        "Width 64, 49 tokens, one image, one thread; milliseconds of CPU time, medians in turn in one run, and",
        "operators of the exported graph that compute. `looped` runs branch after branch, `fused` is what is trained,",
        "`folded` what is served.",
    )
    for runner, forms in (*wide["ms"].items(), ("operators", wide["operators"])):
        counts = sorted(forms["serial"], key=int)
        yield from table(runner, *(f"{count} layers" for count in counts))
        for form, taken in forms.items():
            yield table_row((form, *(taken[count] for count in counts)))
        yield ""
    yield from _engines(results)
    yield from _gpu(results)


def _engines(results: Results) -> Iterator[str]:
    engines = results.get("engines")
    if engines is None:
        return
    counts = sorted(next(iter(engines["layers"].values())), key=int)
    yield from prose(
        "Kernels of engines that TensorRT for RTX builds, and the most of them that wait for each other:",
    )
    yield from table("engine", *(f"{count} layers" for count in counts))
    for form, found in engines["layers"].items():
        yield table_row((form, *(f"{found[count]['kernels']}, {found[count]['critical']}" for count in counts)))
    yield ""


def _gpu(results: Results) -> Iterator[str]:
    measured = on_h200()
    yield from prose(
        "NVIDIA H200, bfloat16, CUDA graph, width 192, 196 tokens, one image, microseconds, as",
        "`benchmarks/gpu/latency_study.py` measured them when one branch of two was not fused yet:",
    )
    yield from table("network", *(f"{count} layers" for count in measured["serial"]))
    for name, taken in measured.items():
        yield table_row((name, *(f"{value:.0f}" for value in taken.values())))
    yield ""
    if "gpu" in results:
        yield from prose(
            f"{results['gpu']['gpu']}, this study, microseconds:",
        )
        for runner, forms in results["gpu"]["us"].items():
            yield from table(runner, *(f"{count} layers" for count in forms["serial"]))
            for form, taken in forms.items():
                yield table_row((form, *taken.values()))
            yield ""


def ends(results: Results, _scale: Scale) -> Iterator[str]:
    """The roofline of a GPU that is not here, and of this CPU with what was measured."""
    foretold = results.get("time/h200", {}).get("widths")
    cpu = results.get("time/wide", {}).get("cpu")
    if foretold is None or cpu is None:
        return
    yield from heading("When time does not grow with layers, and where that ends")
    yield from prose("N fused branches are as many kernels as one, each with N times the work. So")
    yield "    t(N) = launch + outside + branches(N)"
    yield ""
    yield from prose(
        "and time does not grow while what the branches compute and move is small beside launches and what is outside",
        "of them. By the cost model of [targets](targets.md) for an H200 in bfloat16, one image, a folded",
        "Para-Former, in microseconds:",
    )
    yield from table("width", "tokens", "kernels", "launch", "outside", *_SHOWN, "branches overtake the rest at N")
    for width, found in foretold.items():
        cells = (found["tokens"], found["kernels"], f"{found['launch']:.0f}", f"{found['outside']:.0f}")
        shown = (f"{found['branches'][n]:.0f}" if n in found["branches"] else "" for n in _SHOWN.values())
        yield table_row((width, *cells, *shown, _place(found)))
    yield ""
    yield from _against_the_gpu(foretold)
    times = results["time/wide"]["ms"]["eager"]["folded"]
    errors = sorted(abs(cpu["predicted_ms"][n] / times[n] - 1) for n in times)
    yield from prose(
        f"On one core of this CPU an operator costs {cpu['operator_us']:.1f} us by itself and products run at",
        f"{cpu['gflops']:.0f} GFLOP/s, both measured apart. {cpu['operators']} operators and {cpu['flops'] / 1e6:.1f}",
        f"MFLOP of a branch of width 64 then foretell that products outweigh operators from N = {cpu['end']:.0f} on,",
        f"and the times above within {100 * errors[len(errors) // 2]:.0f} % at the median, {100 * errors[-1]:.0f} % at",
        "most:",
    )
    counts = sorted(times, key=int)
    yield from table("folded, eager, ms", *(f"N = {n}" for n in counts))
    yield table_row(("foretold", *(f"{cpu['predicted_ms'][n]:.3f}" for n in counts)))
    yield table_row(("measured", *(times[n] for n in counts)))
    yield ""
    places = ", ".join(f"{_place(found)} at width {width}" for width, found in foretold.items())
    yield from prose(
        "So the sentence is true of a device that is mostly idle, and of as many devices as branches; it ends where",
        f"one device is full. On a core that is from N = {cpu['end']:.0f}; on an H200 from N = {places}.",
    )


def _place(found: Mapping[str, Any]) -> str:
    return f"beyond {max(map(int, found['branches']))}" if found["end"] is None else f"{found['end']:.0f}"


def _against_the_gpu(foretold: Mapping[str, Any]) -> Iterator[str]:
    """How far the cost model is from what was measured."""
    measured, total = on_h200()["Para-Former, fused"], foretold.get("192", {}).get("total", {})
    most = max(measured)
    if str(most) not in total:
        return
    grown, said = measured[most] / measured[2], total[str(most)] / total["2"]
    yield from prose(
        f"The H200 was measured at width 192 only: from 2 to {most} branches {grown:.2f} times, where the model says",
        f"{said:.2f} times for kernels as they are now.",
    )
