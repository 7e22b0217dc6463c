"""Seven checks of every architecture of the zoo, and a page that says what works on which.

    python benchmarks/architectures.py                    all of them
    python benchmarks/architectures.py --only gpt2 bert-sdpa
    python benchmarks/architectures.py --missing          those without a result yet

Captured; stacks as expected; serial schedule equal to the bit; Picard iteration in float64; pairs of blocks side by
side; their width fused, in float64; the fused network as ONNX in ONNX Runtime, in float32. Results are kept in
benchmarks/results/architectures.json after each model; docs/architectures.md is written from them.
"""

import argparse
import datetime as dt
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the zoo is beside this script, the packages are those of this checkout

from benchmarks.zoo import ZOO, Entry  # noqa: E402
from benchmarks.zoo.checks import is_serial_to_the_bit, kinds, pairs_plan, picard_error  # noqa: E402
from parallelize.backends.onnxruntime import OnnxRuntime  # noqa: E402
from parallelize.cleaning import clean  # noqa: E402
from parallelize.onnx_export import write_onnx  # noqa: E402
from parallelize.program import Program  # noqa: E402
from passes.apply_plan import ApplyPlan  # noqa: E402
from passes.fuse_width import FuseWidth  # noqa: E402
from passes.infra import flat_outputs, largest_change, run_passes  # noqa: E402
from passes.stacks import find_stacks  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "architectures.json"
PAGE = ROOT / "docs" / "architectures.md"
LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")
FORMS = ("sublayer", "block")


def check(entry: Entry) -> dict:
    """All checks of one architecture; a check that fails is recorded with what it said."""
    result: dict = {"date": dt.datetime.now(dt.timezone.utc).date().isoformat(), "failed": {}}
    inputs = list(entry.inputs(torch.float64).values())

    def attempt(name: str, action: Callable[[], object]) -> object:
        try:
            return action()
        except Exception as error:  # noqa: BLE001  (a benchmark reports whatever a check raises)
            result["failed"][name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return None

    module = attempt("captured", lambda: clean(entry.capture(torch.float64), inputs)[0].module)
    result["captured"] = module is not None
    if module is None:
        return result
    found = find_stacks(module)
    result["stacks"] = [stack.summary() for stack in found.stacks]
    result["as_expected"] = kinds(found.stacks) == list(entry.stacks) and len(found.refused) == len(entry.refused)
    result["refused"] = [refusal.reason for refusal in found.refused]
    result["serial"] = attempt("serial", lambda: is_serial_to_the_bit(module, found.stacks, inputs))
    result["picard"] = attempt("picard", lambda: picard_error(module, found.stacks, inputs))
    for form in FORMS:
        result[form] = attempt(form, lambda form=form: fuse(module, form, inputs))
    result["onnx"] = attempt("onnx", lambda: onnx_difference(entry))
    return result


def fuse(module: torch.fx.GraphModule, form: str, inputs: Sequence[torch.Tensor]) -> dict:
    """Pairs of blocks side by side, then their width fused, in float64."""
    steps = [ApplyPlan(pairs_plan(find_stacks(module).stacks, form)), FuseWidth()]
    paired, _ = run_passes(module, steps[:1])
    fused, (record,) = run_passes(paired, steps[1:], inputs)
    outputs = flat_outputs(fused, inputs)
    return {
        "finite": all(bool(output.isfinite().all()) for output in outputs),
        "sums": len(record.matches),
        "error": record.error,
        "skipped": [skip.reason for skip in record.skipped],
    }


def onnx_difference(entry: Entry) -> float:
    """The largest relative difference of the fused pairs in ONNX Runtime from the same graph in PyTorch, float32."""
    program, _ = clean(entry.capture())
    plan = pairs_plan(find_stacks(program.module).stacks, "sublayer")
    module, _ = run_passes(program.module, [ApplyPlan(plan), FuseWidth()])
    fused = Program(module, program.inputs, program.outputs, program.origin)
    inputs = list(entry.inputs(seed=2).values())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        write_onnx(fused, path)
        return largest_change(flat_outputs(module, inputs), OnnxRuntime(path, threads=1)(inputs))


# ------------------------------------------------------------------------------------------------------- the page


def row(name: str, result: dict) -> str:
    """One line of the table."""
    if not result["captured"]:
        return f"| {name} | no |" + " |" * 7
    stacks = "; ".join(result["stacks"]) or "none"
    cells = [
        name,
        ("" if result["as_expected"] else "**not as expected:** ") + stacks,
        str(len(result["refused"])),
        {True: "yes", False: "**no**", None: "**failed**"}[result["serial"]],
        figure(result["picard"]) if result["stacks"] else "",
        *(fusion(result[form]) if result["stacks"] or (result[form] or {}).get("sums") else "" for form in FORMS),
        figure(result["onnx"]),
    ]
    return "| " + " | ".join(cells) + " |"


def figure(value: float | None) -> str:
    """Such as 3e-16."""
    return "**failed**" if value is None else "0" if value == 0 else f"{value:.0e}"


def fusion(part: dict | None) -> str:
    """Such as "4 sums, 2e-16; 2 branches left"."""
    if part is None or not part["finite"]:
        return "**failed**"
    left = f"{len(part['skipped'])} branches left" if part["skipped"] else ""
    done = f"{part['sums']} sums, {figure(part['error'])}" if part["sums"] else ""
    return "; ".join(text for text in (done, left) if text) or "nothing to fuse"


def grouped_reasons(results: dict, reasons: Callable[[dict], Sequence[str]]) -> list[str]:
    """One line for each reason, whatever the numbers of its nodes, with the architectures that it is given for."""
    where: dict[str, dict[str, int]] = {}
    for name, result in results.items():
        for reason in reasons(result):
            counts = where.setdefault(re.sub(r"(?<=[a-z])_\d+\b", "", reason), {})
            counts[name] = counts.get(name, 0) + 1
    ranked = sorted(where.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return [f"- {reason}: " + ", ".join(f"{n} ({c})" for n, c in counts.items()) for reason, counts in ranked]


def page(results: dict) -> str:
    """docs/architectures.md."""
    ordered = {name: results[name] for name in ZOO if name in results}
    dates = sorted({result["date"] for result in ordered.values()})
    heads = (
        "architecture",
        "stacks and their terms",
        "adds refused",
        "serial schedule equal to the bit",
        "Picard, float64",
        "pairs in sublayer form, fused",
        "pairs in block form, fused",
        "ONNX Runtime, float32",
    )
    failed = [
        f"- {name}, {what}: {said}" for name, result in ordered.items() for what, said in result["failed"].items()
    ]
    skipped = [
        grouped_reasons(ordered, lambda result, form=form: (result.get(form) or {}).get("skipped", []))
        for form in FORMS
    ]
    lines = [
        "# Architectures",
        "",
        "What works on which architecture. The models are small and have random weights; batch and, for text, the",
        "number of tokens stay free. So this says whether a rewrite is right, and nothing about accuracy.",
        "",
        "- **stacks and their terms**: stacks are separated by semicolons; one of a pyramid network is one stage;",
        "  `attention+mlp` is one term x + (attention + mlp), as in GPT-J.",
        "- **adds refused**: residual adds that are no term, with the reasons below.",
        "- **Picard**: largest relative error of a stack after as many rounds as it has terms.",
        "- **pairs, fused**: neighbouring blocks two by two, then `fuse-width` in float64: how many sums of branches",
        "  became one wide operation, and the largest relative change of the outputs; branches that were left as they",
        "  are.",
        "- **ONNX Runtime**: largest relative difference from PyTorch of pairs in sublayer form after `fuse-width`.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *(row(name, result) for name, result in ordered.items()),
        "",
        *(["## Checks that failed", "", *failed, ""] if failed else []),
        "## Residual adds that are no terms",
        "",
        "Numbers of nodes are left out; in brackets, how many adds of an architecture.",
        "",
        *grouped_reasons(ordered, lambda result: result.get("refused", [])),
        "",
    ]
    for form, reasons in zip(FORMS, skipped, strict=True):
        lines += [f"## Branches that width fusion leaves as they are: {form} form", "", *(reasons or ["None."]), ""]
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return "\n".join([*lines, f"Measured {' to '.join({dates[0], dates[-1]})} with {versions}, on the CPU.", ""])


def main() -> None:
    """Check, keep the results, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(ZOO), help="architectures to check")
    parser.add_argument("--missing", action="store_true", help="leave out those that have a result")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.only or ZOO:
        if options.missing and name in results:
            continue
        start = time.perf_counter()
        results[name] = check(ZOO[name])
        RESULTS.write_text(json.dumps({n: results[n] for n in ZOO if n in results}, indent=1) + "\n")
        PAGE.write_text(page(results))
        print(f"{time.perf_counter() - start:5.1f} s {row(name, results[name])}", flush=True)


if __name__ == "__main__":
    main()
