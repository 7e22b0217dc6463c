"""What fusing the branches of a Para-Former saves: operators, and time in eager PyTorch and ONNX Runtime, in turn.

    python benchmarks/paraformer_speed.py [--branches 16] [--widths 64 16] [--turns 60] [--threads 1]

Batch 1, 49 tokens, branches of one block. `looped` runs branch after branch, `fused` is what is trained, `folded` what
is served. With one thread the times are CPU times of that thread, which neighbours on a shared machine disturb less
than wall times. Written to benchmarks/results/paraformer_speed.json.
"""

import argparse
import io
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from paraformer.model import VisionConfig, VisionParaFormer
from paraformer.network import ParaFormer

RESULTS = Path(__file__).parent / "results" / "paraformer_speed.json"
COUNTED = (1, 2, 3, 8, 16)
VIEWS = {"view", "flatten", "transpose", "permute", "unbind", "getitem", "slice", "select"}


def model(branches: int, width: int) -> ParaFormer:
    """Branches of one block on 49 tokens."""
    mode = "para-former" if branches > 1 else "serial"
    heads = max(1, width // 16)
    config = VisionConfig(depth=branches, branches=branches, mode=mode, width=width, heads=heads, hidden=4 * width)
    return VisionParaFormer(config).eval()


def operators(network: ParaFormer, images: Tensor) -> dict[str, int]:
    """Operators of the exported graph: all, and those that are no view."""
    graph = torch.export.export(network, (images,)).graph
    names = Counter(node.target.__name__.split(".")[0] for node in graph.nodes if node.op == "call_function")
    return {"all": names.total(), "computing": sum(count for name, count in names.items() if name not in VIEWS)}


def session(network: ParaFormer, images: Tensor, threads: int) -> Callable[[], object]:
    """What runs the network in ONNX Runtime."""
    program = torch.onnx.export(network, (images,), dynamo=True, verbose=False)
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    opened = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = {opened.get_inputs()[0].name: images.numpy()}
    return lambda: opened.run(None, feed)


def in_turn(candidates: dict[str, Callable[[], object]], turns: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median milliseconds of each, after five turns of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(turns + 5):
        for name, run in candidates.items():
            start = clock()
            run()
            if turn >= 5:
                seconds[name].append(clock() - start)
    return {name: round(1e3 * statistics.median(values), 3) for name, values in seconds.items()}


def main() -> None:
    """Count, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--branches", type=int, default=16)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 16])
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    images = torch.rand(1, 1, 28, 28) * 255
    counts = {"serial, one block": operators(model(1, 64), images)}
    for branches in COUNTED:
        built = model(branches, 64)
        for name, form in (("looped", built), ("fused", built.fuse()), ("folded", built.fold())):
            counts[f"{name}, {branches} branches"] = operators(form, images)
    times = []
    for width in options.widths:
        built = model(options.branches, width)
        forms = {"looped": built, "fused": built.fuse(), "folded": built.fold()}
        with torch.inference_mode():
            eager = in_turn({name: lambda f=form: f(images) for name, form in forms.items()}, options.turns, clock)
        runs = {name: session(form, images, options.threads) for name, form in forms.items()}
        for runner, row in (("eager", eager), ("onnxruntime", in_turn(runs, options.turns, clock))):
            faster = {f"looped / {name}": round(row["looped"] / row[name], 2) for name in ("fused", "folded")}
            times.append({"runner": runner, "width": width, "branches": options.branches, "ms": row, **faster})
    result = {"operators": counts, "threads": options.threads, "clock": clock.__name__, "times": times}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
