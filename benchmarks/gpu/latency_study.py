"""How much latency is depth? Serial networks against wide ones on one CUDA GPU.

    python benchmarks/gpu/latency_study.py                at most nine minutes; writes benchmarks/results/gpu_latency.*
    python benchmarks/gpu/latency_study.py --quick        one tiny model, on a CPU too; nothing is written

Needs this project, PyTorch with CUDA and transformers; TensorRT and TensorRT for RTX are measured where they import and
have tactics for the card. Weights are random: latency does not depend on their values. What is measured:

1. a Para-Former of 1 to 32 branches, fused and unfused, against its serial twin;
2. ViT-Tiny, -Small and -Base, BERT-Base and MiniLM: serial, rewrites of depth 6, 4, 3, 2, 1, unfused, blocks deleted;
3. batches of 1 to 32 in bfloat16, batch 1 in float16;
4. torch with CUDA graphs, torch.compile (max-autotune) with CUDA graphs, and every TensorRT that imports.

Candidates of a row are timed in turn, by CUDA events, and stand beside the floor of the card.
"""

import argparse
import datetime as dt
import json
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # the packages are those of this checkout

from benchmarks.gpu.engines import libraries, prepare_engine  # noqa: E402
from benchmarks.gpu.measuring import (  # noqa: E402
    Ceilings,
    ceilings,
    flops,
    in_turn,
    replay,
    runner,
    summary,
    weight_bytes,
)
from benchmarks.gpu.networks import SERIAL, Family, Network, families, para_formers, rewrites  # noqa: E402
from benchmarks.gpu.page import page  # noqa: E402
from parallelize.machine.gpu import driver_version  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
BATCHES = (1, 2, 4, 8, 16, 32)
BRANCHES = (1, 2, 4, 8, 16, 32)
ROUNDS = 15
COMPILED = ("serial", "depth 3", "depth 1", "depth 2")  # these also with torch.compile, at batch 1
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Study:
    """The rows so far and the time that is left."""

    def __init__(self, minutes: float, *, quick: bool) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.quick = quick
        self.rounds = 3 if quick else ROUNDS
        self.rows: list[dict] = []
        self.notes: list[str] = []
        self.ceilings: dict[torch.dtype, Ceilings] = {}

    def has(self, share_seconds: float) -> bool:
        """Whether so many seconds are left."""
        return time.monotonic() + share_seconds < self.end

    def note(self, text: str) -> None:
        """Say what was left out and why, once."""
        if text not in self.notes:
            self.notes.append(text)
            print("note:", text, flush=True)

    def measure(self, name: str, dtype: torch.dtype, batch: int, runtime: str, todo: dict[str, tuple]) -> None:
        """Time candidates in turn and keep a row for each; `todo` maps a label to its network and its call."""
        times = in_turn({label: call for label, (_, call) in todo.items()}, self.rounds)
        serial = summary(times[SERIAL])["median_us"] if SERIAL in times else None
        for label, (network, _) in todo.items():
            found = summary(times[label])
            self.rows.append(
                {
                    "family": name,
                    "runtime": runtime,
                    "dtype": str(dtype).removeprefix("torch."),
                    "batch": batch,
                    "network": label,
                    "depth": network.depth,
                    "gemms_deep": network.gemms,
                    **found,
                    "floor_us": self.floor(network, dtype, batch) * 1e6,
                    "speed_up": None if serial is None else serial / found["median_us"],
                }
            )
        shown = "  ".join(
            f"{label} {row['median_us']:.1f}" for label, row in zip(todo, self.rows[-len(todo) :], strict=True)
        )
        print(f"{name}, {runtime}, {dtype}, batch {batch}, us: {shown}", flush=True)

    def floor(self, network: Network, dtype: torch.dtype, batch: int) -> float:
        """Seconds that the card needs at least."""
        if dtype not in self.ceilings:
            self.ceilings[dtype] = ceilings(dtype, small=self.quick)
        module = network.program.module
        (spec,) = network.program.inputs
        one = torch.zeros(spec.sizes({"batch": 2}), dtype=spec.dtype, device=DEVICE)
        if "flops" not in module.meta:
            module.meta["flops"] = flops(runner(module, one)) / 2
            module.meta["bytes"] = weight_bytes(module)
        return self.ceilings[dtype].floor(module.meta["bytes"], batch * module.meta["flops"])


def inputs(family_feed: Callable[[int], torch.Tensor], batch: int, dtype: torch.dtype) -> torch.Tensor:
    """A batch on the device; integers stay integers."""
    value = family_feed(batch)
    return value.to(DEVICE, dtype if value.is_floating_point() else None)


def study_branches(study: Study, dtype: torch.dtype) -> None:
    """Para-Formers of more and more branches."""
    for branches in BRANCHES[: 2 if study.quick else None]:
        networks = list(para_formers(branches, DEVICE, dtype))
        value = inputs(lambda batch: torch.randn(batch, 3, 224, 224), 1, dtype)
        todo = {n.label: (n, replay(runner(n.program.module, value))) for n in networks}
        study.measure(f"Para-Former, {branches} branches", dtype, 1, "torch", todo)


def study_family(study: Study, family: Family, dtype: torch.dtype, batches: tuple[int, ...]) -> list[Network]:
    """One family at some batches, eager operators in CUDA graphs."""
    networks = list(rewrites(family, DEVICE, dtype))
    for batch in batches:
        value = inputs(family.feed, batch, dtype)
        todo = {n.label: (n, replay(runner(n.program.module, value))) for n in networks}
        study.measure(family.name, dtype, batch, "torch", todo)
    return networks


def study_engines(study: Study, family: Family, networks: list[Network], dtype: torch.dtype) -> None:
    """The family in every TensorRT that imports, at batch 1."""
    for library in libraries(study.note):
        value, todo = inputs(family.feed, 1, dtype), {}
        for network in networks:
            if not study.has(20):
                study.note(f"{family.name}: the time was up before all engines of {library} were built")
                break
            call = prepare_engine(library, network.program, value, study.note)
            if call is None:
                break
            todo[network.label] = (network, replay(call))
        if SERIAL in todo:
            study.measure(family.name, dtype, 1, library, todo)


def study_compiled(study: Study, family: Family, networks: list[Network], dtype: torch.dtype) -> None:
    """torch.compile with max-autotune, its kernels in a CUDA graph of ours, at batch 1."""
    value, todo = inputs(family.feed, 1, dtype), {}
    mode = "default" if study.quick else "max-autotune-no-cudagraphs"
    for network in networks:
        if network.label not in COMPILED:
            continue
        if not study.has(30):
            study.note(f"{family.name}, {network.label}: the time was up before torch.compile")
            break
        torch._dynamo.reset()
        try:
            compiled = torch.compile(network.program.module, mode=mode, dynamic=False)
            todo[network.label] = (network, replay(lambda call=compiled: call(value)))
        except Exception as error:  # noqa: BLE001  (the compiler raises anything; the study goes on)
            study.note(f"{family.name}, {network.label}: torch.compile failed: {str(error).splitlines()[0]}")
    if SERIAL in todo:
        study.measure(family.name, dtype, 1, "torch.compile", todo)


def stages(study: Study) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is measured, what matters most first."""
    dtype, kept = torch.bfloat16, {}
    found = list(families(small=study.quick))

    def first(family: Family) -> None:
        kept[family.name] = study_family(study, family, dtype, BATCHES[:2] if study.quick else BATCHES)

    def half(family: Family) -> None:
        networks = study_family(study, family, torch.float16, (1,))
        study_engines(study, family, networks, torch.float16)

    yield "branches", lambda: study_branches(study, dtype)
    for family in found:
        yield family.name, lambda family=family: first(family)
    for family in found:
        yield f"{family.name} compiled", lambda f=family: study_compiled(study, f, kept[f.name], dtype)
    for family in found:
        yield f"{family.name} float16", lambda f=family: half(f)


def machine() -> dict[str, str]:
    """Where the numbers are from."""
    libraries_there = {name: version(name) for name in ("torch", "transformers", "triton") if _installed(name)}
    gpu = {}
    if DEVICE == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        gpu = {"gpu": torch.cuda.get_device_name(), "compute capability": capability, "CUDA": str(torch.version.cuda)}
        gpu["driver"] = driver_version() or "unknown"
    date = dt.datetime.now(dt.timezone.utc).date().isoformat()
    return {"date": date, **gpu, "python": platform.python_version(), **libraries_there}


def _installed(name: str) -> bool:
    try:
        version(name)
    except ImportError:
        return False
    return True


def main() -> None:
    """Measure until all is measured or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.5, help="no new part begins after so long")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu_latency.json and gpu_latency.md")
    parser.add_argument("--quick", action="store_true", help="one tiny model; nothing is written unless --out is given")
    given = parser.parse_args()
    if DEVICE == "cpu" and not given.quick:
        parser.error("there is no CUDA GPU; --quick runs on a CPU")
    warnings.simplefilter("ignore")
    study = Study(given.minutes, quick=given.quick)
    with torch.no_grad():
        todo = list(stages(study))
        ahead = [name for name, _ in todo]
        for name, stage in todo:
            if not study.has(5):
                study.note(f"{name}: not measured, the time was up")
                continue
            try:
                stage()
            except Exception as error:  # noqa: BLE001  (one part that fails must not cost the others)
                traceback.print_exc()
                study.note(f"{name}: not measured, {type(error).__name__}: {str(error).splitlines()[0]}")
            ahead.remove(name)
            write(study, given.out, ahead, keep=not given.quick or given.out != RESULTS)


def write(study: Study, folder: Path, ahead: list[str], *, keep: bool) -> None:
    """What is there so far: a run that is stopped leaves what it measured."""
    limits = {
        str(dtype).removeprefix("torch."): {"copy_bytes_per_s": c.bandwidth, "matrix_flops_per_s": c.rate}
        for dtype, c in study.ceilings.items()
    }
    content = {"machine": machine(), "ceilings": limits, "rounds": study.rounds, "rows": study.rows}
    content["notes"] = [*study.notes, *(f"{name}: not measured, the run ended before" for name in ahead)]
    if not keep:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_latency.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "gpu_latency.md").write_text(page(content))


if __name__ == "__main__":
    main()
