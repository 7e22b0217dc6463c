"""The checks of every architecture of the zoo, and a page that says what works on which.

    python benchmarks/architectures.py                       all of them
    python benchmarks/architectures.py --only gpt2 bert-sdpa
    python benchmarks/architectures.py --shard 2/4           the second of four parts
    python benchmarks/architectures.py --missing             what has no result yet: a run that was stopped goes on
    python benchmarks/architectures.py --page                the page alone, from the results that are kept

Captured, and compared with the module itself; stacks as expected, no add passed over in silence; serial schedule equal
to the bit; Picard iteration in float64; pairs of blocks side by side; their width fused, in float64; the fused network
as ONNX in ONNX Runtime, in float32. Results are kept in benchmarks/results/architectures.json after each model, each
with its date and the versions of the libraries; docs/architectures.md is written from them.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the zoo is beside this script, the packages are those of this checkout

from benchmarks.zoo import ZOO  # noqa: E402
from benchmarks.zoo.measured import Result, measure, with_onnx  # noqa: E402
from benchmarks.zoo.page import page, row  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "architectures.json"
PAGE = ROOT / "docs" / "architectures.md"


def kept() -> dict[str, Result]:
    """All results so far, in the order of the zoo."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return {name: results[name] for name in ZOO if name in results}


def keep(name: str, result: Result) -> None:
    """Merge one result into the file; what another shard has written in the meantime stays."""
    results = {**kept(), name: result}
    ordered = {known: results[known] for known in ZOO if known in results}
    scratch = RESULTS.with_suffix(".partial")
    scratch.write_text(json.dumps(ordered, indent=1) + "\n")
    scratch.replace(RESULTS)


def completed(name: str, *, onnx: bool, missing: bool) -> Result | None:
    """The result of an architecture, of which only what is missing is measured; None where nothing is."""
    entry = ZOO[name]
    result = kept().get(name) if missing else None
    if result is None:
        return measure(entry, onnx=onnx)
    if "onnx" in result or "stacks" not in result or not (onnx and entry.onnx):
        return None
    return with_onnx(entry, result)


def part_of(names: Sequence[str], shard: str) -> list[str]:
    """Every n-th name, so that the shards take about as long as each other."""
    number, count = (int(text) for text in shard.split("/"))
    return list(names[number - 1 :: count])


def main() -> None:
    """Check, keep the results, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(ZOO), help="architectures to check")
    parser.add_argument("--shard", metavar="I/N", default="1/1", help="the I-th of N parts")
    parser.add_argument("--missing", action="store_true", help="leave out what has a result")
    parser.add_argument("--without-onnx", action="store_true", help="leave out ONNX Runtime, which takes longest")
    parser.add_argument("--page", action="store_true", help="write the page from the results that are kept")
    options = parser.parse_args()
    names = [] if options.page else part_of(options.only or list(ZOO), options.shard)
    for name in names:
        start = time.perf_counter()
        result = completed(name, onnx=not options.without_onnx, missing=options.missing)
        if result is None:
            continue
        keep(name, result)
        print(f"{time.perf_counter() - start:5.1f} s {row(name, result)}", flush=True)
    PAGE.write_text(page(kept()))


if __name__ == "__main__":
    main()
