"""The latency study as a page of Markdown tables, written from its JSON."""

from collections.abc import Iterator

HEAD = """# Latency on a GPU: depth against width

Written by `python benchmarks/gpu/latency_study.py`; the numbers are in gpu_latency.json. {machine}.

Microseconds of one call: median over {rounds} rounds of replays of a CUDA graph, candidates in turn, by CUDA events;
in parentheses how many times as fast as the serial network of that row. *floor*: the larger of the weights' bytes over
the measured bandwidth and the FLOPs over the measured rate, for the serial network ({ceilings}).
Weights are random. *deleted*: only so many blocks are left: it does less, and costs accuracy accordingly.
"""


def page(content: dict) -> str:
    """The page.

    Args:
        content: what latency_study.py writes as JSON.
    """
    machine = ", ".join(f"{name} {value}" for name, value in content["machine"].items())
    limits = "; ".join(
        f"{dtype}: {c['copy_bytes_per_s'] / 1e12:.2f} TB/s, {c['matrix_flops_per_s'] / 1e12:.0f} TFLOP/s"
        for dtype, c in content["ceilings"].items()
    )
    parts = [HEAD.format(machine=machine, rounds=content["rounds"], ceilings=limits)]
    parts += _tables(content["rows"])
    if content["notes"]:
        parts.append("## Not measured\n\n" + "\n".join(f"- {note}" for note in content["notes"]) + "\n")
    return "\n".join(parts)


def _tables(rows: list[dict]) -> Iterator[str]:
    """A table for the Para-Formers and one for each runtime and dtype."""
    branches = [row for row in rows if row["family"].startswith("Para-Former")]
    others = [row for row in rows if row not in branches]
    if branches:
        yield "## Para-Former against its serial twin, batch 1\n\n" + _table(branches)
    for runtime, dtype in dict.fromkeys((row["runtime"], row["dtype"]) for row in others):
        chosen = [row for row in others if (row["runtime"], row["dtype"]) == (runtime, dtype)]
        yield f"## {runtime}, {dtype}\n\n" + _table(chosen)


def _table(rows: list[dict]) -> str:
    """A row for each family and batch, a column for each network."""
    labels = list(dict.fromkeys(row["network"] for row in rows))
    cells = {(row["family"], row["batch"], row["network"]): row for row in rows}
    lines = [f"| | batch | floor | {' | '.join(labels)} |", "|---|---|---|" + "---|" * len(labels)]
    for family, batch in dict.fromkeys((row["family"], row["batch"]) for row in rows):
        found = [cells.get((family, batch, label)) for label in labels]
        floor = next((row["floor_us"] for row in found if row is not None), float("nan"))
        lines.append(f"| {family} | {batch} | {floor:.0f} | {' | '.join(map(_cell, found))} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict | None) -> str:
    if row is None:
        return ""
    times = f"{row['median_us']:.0f}"
    return times if row["network"] == "serial" or row["speed_up"] is None else f"{times} ({row['speed_up']:.2f}x)"
