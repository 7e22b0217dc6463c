"""How much memory a whole conversion takes, in sizes of the model's weights.

    python benchmarks/memory.py                      every row: about an hour of two cores, 16 GB of disk
    python benchmarks/memory.py --only 150m-float32  some of them
    python benchmarks/memory.py --page               the page alone, from the results that are kept

A decoder like Llama with random weights is written as `save_pretrained` does, and `parallelize convert` runs on it with
16 texts of 128 random tokens and a plan that puts two pairs of blocks side by side, refitted in full. That is a process
of its own, whose resident memory is looked at 50 times a second. What a conversion of a model of four tiny blocks takes
at its peak is the libraries', and is subtracted. Results are kept in benchmarks/results/memory.json, and docs/memory.md
is written from them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the packages are those of this checkout

from benchmarks.rows import Rows, table_row, told  # noqa: E402

PAGE = ROOT / "docs" / "memory.md"
TINY = "tiny"
BUFFER = 2**31  # bytes, the default of --buffer
_INTERVAL = 0.02  # seconds between two looks


@dataclass(frozen=True)
class Size:
    """A decoder like Llama."""

    blocks: int
    width: int
    hidden: int
    heads: int
    vocabulary: int


SIZES = {
    TINY: Size(4, 64, 160, 4, 512),
    "30m": Size(8, 512, 1408, 8, 8000),
    "150m": Size(12, 1024, 2816, 16, 8000),
    "400m": Size(6, 2048, 5632, 32, 16000),
    "1b": Size(22, 2048, 5632, 32, 32000),
}
DTYPES = ("float32", "bfloat16")
ROWS = tuple(f"{size}-{dtype}" for size in SIZES if size != TINY for dtype in DTYPES)


@dataclass(frozen=True)
class Stage:
    """What a process took while it said what it was doing, in bytes and seconds.

    Attributes:
        resident: at most.
        anonymous: of that, what is no file: it cannot be dropped and read again.
        disk: files in the folder of the output, at most.
    """

    what: str
    seconds: float
    resident: int
    anonymous: int
    disk: int


def main() -> None:
    """Measure what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--folder", type=Path, help="for models and outputs, 16 GB for the largest; a temporary one")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("options", nargs="*", help="more options of convert, after --")
    arguments = parser.parse_args()
    rows = Rows(ROOT / "benchmarks" / "results" / "memory.json", ROWS)
    if not arguments.page:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for row in arguments.only:
                rows.keep(row, measured(row, Path(folder), arguments.options))
                print(row, {name: value for name, value in rows.kept()[row].items() if name != "stages"}, flush=True)
    PAGE.write_text(page(rows.kept()))


def measured(row: str, folder: Path, options: list[str]) -> dict[str, Any]:
    """Convert the model of a row, and a tiny one of its dtype."""
    size, dtype = row.split("-")
    bare, _ = watched(command(TINY, dtype, folder, options), folder)
    stages, cpu = watched(command(size, dtype, folder, options), folder)
    peak = max(stages, key=lambda stage: stage.resident)
    weights = weight_bytes(folder / row)
    return {
        "weights": weights,
        "libraries": max(stage.resident for stage in bare),
        "libraries_anonymous": max(stage.anonymous for stage in bare),
        "buffer": BUFFER,
        "peak": peak.resident,
        "at": peak.what,
        "anonymous": max(stage.anonymous for stage in stages),
        "disk": max(stage.disk for stage in stages),
        "wall_seconds": round(sum(stage.seconds for stage in stages)),
        "cpu_seconds": round(cpu),
        "stages": [asdict(stage) for stage in stages],
        "machine": _machine(),
    }


def command(size: str, dtype: str, folder: Path, options: list[str]) -> list[str]:
    """Write model, plan and data, each where it is not there yet, and return the call that converts them."""
    model, plan, data = folder / f"{size}-{dtype}", folder / f"{size}.json", folder / f"{size}.npz"
    if not model.exists():
        subprocess.run(
            [sys.executable, "-c", _BUILD, str(ROOT), size, dtype, str(model), str(plan), str(data)], check=True
        )
    output = folder / "out" / model.name
    start = [sys.executable, "-m", "parallelize", "convert", str(model), "--plan", str(plan), "--inputs", str(data)]
    return [*start, "-o", str(output), "--force", "--rounds", "5", *options]


_BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from benchmarks.memory import build
build(sys.argv[2], sys.argv[3], *map(Path, sys.argv[4:]))
"""


def build(name: str, dtype: str, model: Path, plan: Path, data: Path) -> None:
    """Write a model with random weights, a plan that makes it two blocks less deep, and random tokens."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from passes.plan import Plan, grouped

    size = SIZES[name]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=size.width,
        num_hidden_layers=size.blocks,
        intermediate_size=size.hidden,
        num_attention_heads=size.heads,
        num_key_value_heads=4,
        vocab_size=size.vocabulary,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))  # so that it is never there in another one
    try:
        LlamaForCausalLM(config).save_pretrained(model)
    finally:
        torch.set_default_dtype(before)
    blocks = [(2 * block, 2 * block + 1) for block in range(size.blocks)]
    middle = size.blocks // 2
    pairs = [blocks[middle - 2 : middle], blocks[middle : middle + 2]] if size.blocks > 4 else [blocks[1:3]]
    first, last = blocks.index(pairs[0][0]), blocks.index(pairs[-1][-1])
    groups = [*([block] for block in blocks[:first]), *pairs, *([block] for block in blocks[last + 1 :])]
    plan.write_text(Plan((grouped(2 * size.blocks, groups, refit="full"),)).to_json())
    tokens = np.random.default_rng(0).integers(3, size.vocabulary, (16, 128))
    np.savez(data, input_ids=tokens)


def weight_bytes(model: Path) -> int:
    """Of the model's files of weights."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors"))


def watched(call: list[str], folder: Path) -> tuple[list[Stage], float]:
    """Run a command that says on its error stream what it does; its stages, and CPU seconds in all."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    said: list[tuple[float, str]] = [(time.monotonic(), "starting")]
    assert process.stderr is not None
    reader = threading.Thread(
        target=lambda: said.extend((time.monotonic(), line.strip()) for line in process.stderr or ())
    )
    reader.start()
    seen: list[tuple[float, int, int, int]] = []
    used = None
    while used is None or used[0] == 0:
        seen.extend(_look(process.pid, folder / "out"))
        time.sleep(_INTERVAL)
        used = os.wait4(process.pid, os.WNOHANG)
    reader.join()
    if used[1]:
        sys.exit(f"{' '.join(call)} ended with {used[1]}:\n" + "\n".join(line for _, line in said))
    return list(_stages(said, seen)), used[2].ru_utime + used[2].ru_stime


def _look(process: int, output: Path) -> Iterator[tuple[float, int, int, int]]:
    """The moment, resident and anonymous memory, and what the files of the output take."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        disk = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    except OSError:  # it ends, or a file goes meanwhile
        return
    sizes = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest
    }
    if "VmRSS" in sizes:
        yield time.monotonic(), sizes["VmRSS"], sizes["RssAnon"], disk


def _stages(said: list[tuple[float, str]], seen: list[tuple[float, int, int, int]]) -> Iterator[Stage]:
    ends = [*(moment for moment, _ in said[1:]), seen[-1][0] + 1]
    for (begin, what), end in zip(said, ends, strict=True):
        inside = [look for look in seen if begin <= look[0] < end]
        if inside:
            largest = (max(look[place] for look in inside) for place in (1, 2, 3))
            yield Stage(what, round(end - begin, 2), *largest)


def _machine() -> dict[str, Any]:
    from parallelize.machine.measured_on import machine

    return dict(machine(1))


def page(results: dict[str, dict[str, Any]]) -> str:
    """docs/memory.md."""
    lines = [
        "# What a conversion takes of memory",
        "",
        "`parallelize convert` of decoders like Llama with random weights, stored as `save_pretrained` does, by a plan",
        "that puts two pairs of blocks side by side with a full refit, on 16 texts of 128 random tokens, one thread.",
        "`python benchmarks/memory.py` measures and writes this page.",
        "",
        "- **Libraries**: the peak of the same conversion of a model of four tiny blocks. They are subtracted from",
        "  what follows.",
        "- **Peak**: the most resident memory at any time, pages of mapped files included.",
        "- **Beyond the buffer**: the peak less the bound of `--buffer`, which holds what is computed of the samples,",
        "  over the weights as they are stored.",
        "- **Anonymous**: the part of it that is no file, which the system cannot drop and read again.",
        "- **Disk**: the most that lay in the output's folder at any time; a temporary file has the weights once more.",
        "",
        table_row(("model", "dtype", "weights, GB", "libraries, GB", "peak, GB", "peak over weights",
                   "beyond the buffer", "anonymous, GB", "disk, GB", "CPU seconds", "seconds")),
        "|" + "---|" * 11,
    ]  # fmt: skip
    for row, found in results.items():
        size, dtype = row.split("-")
        peak, anonymous = found["peak"] - found["libraries"], found["anonymous"] - found["libraries_anonymous"]
        beyond = max(0, peak - found["buffer"]) / found["weights"]
        lines.append(
            table_row((
                _told_size(SIZES[size]), dtype, _gb(found["weights"]), _gb(found["libraries"]), _gb(peak),
                f"{peak / found['weights']:.2f}", f"**{beyond:.2f}**", _gb(anonymous), _gb(found["disk"]),
                f"{found['cpu_seconds']:,}", f"{found['wall_seconds']:,}",
            ))
        )  # fmt: skip
    lines += ["", "The largest stages, resident memory beyond the libraries over the weights:", ""]
    for row, found in results.items():
        stages = sorted(found["stages"], key=lambda stage: stage["resident"], reverse=True)[:4]
        words = (
            f"{stage['what']} {(stage['resident'] - found['libraries']) / found['weights']:.2f}" for stage in stages
        )
        lines.append(f"- {row}: {'; '.join(words)}")
    machines = sorted({told(found["machine"]) for found in results.values()})
    return "\n".join([*lines, "", *(f"Measured {line}." for line in machines)]) + "\n"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}"


def _told_size(size: Size) -> str:
    return f"{size.blocks} blocks of width {size.width:,}, vocabulary {size.vocabulary:,}"


if __name__ == "__main__":
    main()
