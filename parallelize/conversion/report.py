"""What a conversion tells: one table on the terminal, report.json for programs, report.html for people.

Numbers stand beside the machine, the versions and the date that they were measured on.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from parallelize.baselines.networks import SERIAL, UNFUSED, Variants
from parallelize.conversion.notes import facts, notes
from parallelize.data.split import Split
from parallelize.inspecting.diagrams import draw, schedule_graph
from parallelize.machine.latency import Latency
from parallelize.machine.measured_on import machine
from parallelize.metrics import METRICS, Budget, Metric, Scores
from parallelize.metrics.bootstrap import CONFIDENCE, RESAMPLES
from parallelize.models.acceptance import RANDOM_WARNING
from parallelize.planning.planner import Search
from parallelize.terminal.words import counted
from passes.plan import Plan, serial
from passes.runner import PassRecord
from passes.stacks.find import Stacks
from passes.stacks.stack_graph import StackGraph

if TYPE_CHECKING:
    from parallelize.conversion.convert import ConvertOptions
    from parallelize.conversion.engines import Built

SCHEMA = "parallelize-report/1"


@dataclass(frozen=True)
class Comparison:
    """An ONNX file against the graph it was written from: largest difference over the largest output."""

    error: float
    tolerance: float
    samples: int


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured in one conversion."""

    origin: str
    stacks: Stacks
    graph: StackGraph
    variants: Variants
    scores: Mapping[str, Scores]
    latencies: Mapping[str, Latency]
    comparisons: Mapping[str, Comparison]
    search: Search | None
    unscheduled: str | None
    split: Split
    random_inputs: bool
    metric: Metric
    options: ConvertOptions
    records: tuple[PassRecord, ...]
    built: Built
    notes: tuple[str, ...] = ()


def write_report(evidence: Evidence, directory: Path) -> dict[str, Any]:
    """Write report.json, report.html, before.svg and after.svg; returns the content of report.json."""
    content = as_dict(evidence)
    (directory / "report.json").write_text(json.dumps(content, indent=1) + "\n")
    stacks = evidence.stacks.stacks
    before = Plan(tuple(serial(len(stack.terms)) for stack in stacks))
    draw(schedule_graph(stacks, before, f"{evidence.origin}: serial"), directory / "before.svg")
    what = "rewritten" if evidence.unscheduled is None else "as it was captured, branches fused"
    draw(schedule_graph(stacks, evidence.variants.plan, f"{evidence.origin}: {what}"), directory / "after.svg")
    (directory / "report.html").write_text(_page(evidence, content, directory))
    return content


def as_dict(evidence: Evidence) -> dict[str, Any]:
    """The report as plain values."""
    split, deletion = evidence.split, evidence.variants.deletion
    return {
        "schema": SCHEMA,
        "model": evidence.origin,
        "measured_on": machine(evidence.options.threads),
        "warnings": [*([RANDOM_WARNING] if evidence.random_inputs else []), *evidence.notes],
        "data": {
            "random": evidence.random_inputs,
            "fit": len(split.fit),
            "held_out": len(split.held_out),
            "judge": len(split.judge),
            "batch": split.judge.fixed or 1,
        },
        "metric": {
            "name": evidence.metric.name,
            "meaning": evidence.metric.meaning,
            "max_error": None if evidence.options.max_error is None else str(Budget.parse(evidence.options.max_error)),
        },
        "intervals": {"method": "BCa bootstrap over samples", "confidence": CONFIDENCE, "resamples": RESAMPLES},
        "refit_allowed": evidence.options.refit,
        "plan": json.loads(evidence.variants.plan.to_json()),
        "unscheduled": evidence.unscheduled,
        "deletion_plan": None if deletion is None else json.loads(deletion.to_json()),
        "stacks": [
            {
                "name": stack.name,
                "terms": len(stack.terms),
                "blocks": len(stack.blocks),
                "layers": len(stack.blocks) * stack.layers,
                "kinds": stack.summary(),
                "behind": sorted(evidence.graph.order.predecessors(number)),
            }
            for number, stack in enumerate(evidence.stacks.stacks)
        ],
        "refused": [asdict(refusal) for refusal in evidence.stacks.refused],
        "networks": [_network(evidence, variant.name) for variant in evidence.variants.items],
        "refit": [asdict(level) for level in evidence.variants.levels],
        "healing": _healing(evidence),
        "passes": [asdict(record) for record in evidence.records],
        "search": _search(evidence),
        "unfused_stacks": dict(evidence.search.unfused) if evidence.search is not None else {},
        "backend": evidence.built.as_dict(),
    }


def _network(evidence: Evidence, name: str) -> dict[str, Any]:
    variant = evidence.variants[name]
    return {
        "name": name,
        "depth_blocks": variant.blocks,
        "depth_terms": variant.depth,
        "parameters": variant.parameters,
        "critical_gemms": variant.gemms,
        **_scores(evidence.scores[name], evidence.metric),
        "onnxruntime_ms": asdict(evidence.latencies[name]),
        "onnx_against_graph": asdict(evidence.comparisons[name]),
    }


def _healing(evidence: Evidence) -> dict[str, Any] | None:
    options, healed = evidence.options.heal, evidence.variants.healed
    if options is None or healed is None:
        return None
    return {"options": asdict(options), **healed.as_dict()}


def _scores(scores: Scores, metric: Metric) -> dict[str, Any]:
    """What was measured by every metric that there is for these outputs, with intervals [low, high]."""
    every = [m for m in {**METRICS, metric.name: metric}.values() if scores.has(m)]
    valued = [m for m in every if m.serial is not None]
    return {
        "scores": scores.as_dict(),
        "errors": {m.name: scores.error(m) for m in every},
        "error_intervals": {m.name: scores.interval(m) for m in every},
        "values": {m.name: scores.value(m) for m in valued},
        "value_intervals": {m.name: scores.value_interval(m) for m in valued},
    }


def _search(evidence: Evidence) -> list[dict[str, Any]]:
    if evidence.search is None:
        return []
    return [
        {"depth_blocks": c.depth, "predicted": c.predicted, "held_out": c.scores.as_dict()}
        for c in evidence.search.measured
    ]


def table(content: Mapping[str, Any]) -> Table:
    """The before/after table of a report."""
    networks = content["networks"]
    serial_ms = next(n for n in networks if n["name"] == SERIAL)["onnxruntime_ms"]["median"]
    threads = content["measured_on"]["onnxruntime_threads"]
    measures = _measures(content)
    result = Table(
        title=Text(f"{content['model']}: {_title(content)}", "table.title"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    result.add_column("network", no_wrap=True)
    headings = ["blocks\ndeep", "para-\nmeters", "GEMMs\ndeep"]
    headings += [heading for measure in measures for heading in measure.headings]
    headings += ["median\nms", "p90\nms", "speed\nup"]
    for heading in headings:
        result.add_column(heading, justify="right", no_wrap=True)
    result.caption_justify = "left"
    result.caption = (
        f"GEMMs deep: matrix products that wait for each other. {_legend(content, measures)}"
        f"ms: ONNX Runtime on the CPU, batch {content['data']['batch']}, {threads} thread{'s' if threads > 1 else ''},"
        " timed in turn."
    )
    for network in networks:
        result.add_row(*_row(network, serial_ms, measures))
    return result


def _title(content: Mapping[str, Any]) -> str:
    """What the numbers rest on."""
    if not content["data"]["random"]:
        return counted(content["data"]["judge"], "sample") + (" judges" if content["data"]["judge"] == 1 else " judge")
    planned = "nothing scheduled" if content["unscheduled"] is not None else "scheduled by structure"
    return f"{planned}, run on random inputs, which judge nothing"


@dataclass(frozen=True)
class _Measure:
    """One number of the table, with its interval where there is one.

    Attributes:
        heading: over the column, two lines.
        kind: the part of a network's report that holds the number.
        key: the number there.
        number: how it is written.
        bound: how the ends of its interval are written; None leaves it out.
    """

    heading: str
    kind: Literal["values", "errors", "scores"]
    key: str
    number: str = ".4f"
    bound: str | None = ".4f"

    @property
    def headings(self) -> list[str]:
        return [self.heading] if self.bound is None else [self.heading, "\n95 %"]

    def cells(self, network: Mapping[str, Any]) -> list[str]:
        text = _number(network[self.kind][self.key], self.number)
        if self.bound is None:
            return [text]
        low, high = (_number(end, self.bound) for end in network[f"{self.kind[:-1]}_intervals"][self.key])
        return [text, f"{low}..{high}".replace("%..", "..")]


_TOP1 = _Measure("top-1", "values", "top1-drop", ".2%", ".1%")
_AGREE = _Measure("agree", "scores", "agreement", ".1%", None)
_ERRORS = {
    "kl": _Measure("KL\nnats", "errors", "kl"),
    "relative-l2": _Measure("rel.\nL2", "errors", "relative-l2"),
    "cosine": _Measure("1 -\ncosine", "errors", "cosine"),
    "differing": _Measure("codes\nmoved", "errors", "differing", ".2%", ".1%"),
    "disagreement": _Measure("moved", "errors", "disagreement", ".2%", ".1%"),
    "perplexity": _Measure("per-\nplexity", "values", "perplexity", ".2f", ".1f"),
}


def _measures(content: Mapping[str, Any]) -> list[_Measure]:
    """The metric, top-1 where there are labels, and agreement where there is room for it."""
    serial = content["networks"][0]
    metric = content["metric"]["name"]
    found = [_TOP1] if _TOP1.key in serial["values"] else []
    if metric != _TOP1.key:
        found.append(_ERRORS.get(metric) or _Measure("own\nscore", "values", metric, ".4g", ".4g"))
    has_room = len(found) == 1 and metric != "disagreement"
    found += [_AGREE] if has_room and serial["scores"]["agreement"] is not None else []
    return [replace(measure, bound=None) for measure in found] if content["data"]["random"] else found


def _legend(content: Mapping[str, Any], measures: Sequence[_Measure]) -> str:
    """What the columns and rows that are there mean."""
    against = [measure.heading.replace("\n", " ") for measure in measures if measure.kind != "values"]
    text = f"{', '.join(against)}: against serial. " if against else ""
    if any(measure.bound is not None for measure in measures):
        text += "95 %: bootstrap interval over samples. "
    if any(network["name"] == UNFUSED for network in content["networks"]):
        text += "unfused: refitted, branches side by side; all other rewrites are fused. "
    return text


def _row(network: Mapping[str, Any], serial_ms: float, measures: Sequence[_Measure]) -> list[str]:
    latency = network["onnxruntime_ms"]
    return [
        network["name"],
        str(network["depth_blocks"]),
        _count(network["parameters"]),
        str(network["critical_gemms"]),
        *(cell for measure in measures for cell in measure.cells(network)),
        *(_milliseconds(latency[name]) for name in ("median", "p90")),
        f"{serial_ms / latency['median']:.2f}x",
    ]


def _number(value: float, form: str) -> str:
    """A number as its column writes it, or with four digits where that would be too wide."""
    return f"{value:.4g}" if abs(value) >= 1e4 else f"{value:{form}}"


def _milliseconds(time: float) -> str:
    return f"{time:.2f}" if time >= 0.995 else f"{time:.2g}"


def _count(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
 table { border-collapse: collapse; margin: 1rem 0 }
 th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
 th:first-child, td:first-child { text-align: left }
 .warning { background: #fff3cd; padding: .6rem 1rem; border-left: 4px solid #b8860b }
 .pair { display: flex; gap: 2rem; align-items: flex-start; overflow-x: auto }
 code, pre { background: #f5f5f5; padding: .1rem .3rem }
</style></head><body>
<h1>$title</h1>
$facts
$warnings
<table>$rows</table>
<p>$meaning Latency: ONNX Runtime on the CPU, batch $batch, $threads thread(s), $rounds rounds in turn.</p>
<h2>Before and after</h2><div class="pair">$before $after</div>
<h2>Refit, level by level</h2><table>$levels</table>
<h2>Machine</h2><table>$machine</table>
<h2>Plan</h2><pre>$plan</pre>
</body></html>
""")


def _page(evidence: Evidence, content: Mapping[str, Any], directory: Path) -> str:
    shown = table(content)
    heads = "".join(f"<th>{html.escape(str(column.header)).replace(chr(10), '<br>')}</th>" for column in shown.columns)
    cells = zip(*(list(column.cells) for column in shown.columns), strict=True)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in cells)
    levels = "<tr><th>level</th><th>refit</th><th>ridge</th><th>error before</th><th>after</th></tr>" + "".join(
        f"<tr><td>{html.escape(level['stack'])} {level['level'] + 1}</td><td>{level['strength']}</td>"
        f"<td>{level['ridge']:g}</td><td>{level['before']:.2e}</td><td>{level['after']:.2e}</td></tr>"
        for level in content["refit"]
    )
    machine_rows = "".join(
        f"<tr><td>{k}</td><td>{html.escape(str(v))}</td></tr>" for k, v in content["measured_on"].items()
    )
    return _PAGE.substitute(
        title=html.escape(f"{evidence.origin}: depth into width"),
        warnings="".join(f'<p class="warning">{html.escape(text)}</p>' for text in notes(content)),
        facts="".join(f"<p>{html.escape(text)}</p>" for text in facts(content)),
        rows=f"<tr>{heads}</tr>{rows}",
        meaning=html.escape(f"{_legend(content, _measures(content))}{_judged(content)}"),
        threads=content["measured_on"]["onnxruntime_threads"],
        batch=content["data"]["batch"],
        rounds=content["networks"][0]["onnxruntime_ms"]["rounds"],
        before=(directory / "before.svg").read_text(),
        after=(directory / "after.svg").read_text(),
        levels=levels,
        machine=machine_rows,
        plan=html.escape(evidence.variants.plan.to_json()),
    )


def _judged(content: Mapping[str, Any]) -> str:
    data, healing = content["data"], content["healing"]
    if data["random"]:
        return f"Run on {data['judge']} random samples, which say nothing about accuracy."
    healed = "" if healing is None else f", so was the healing of {healing['steps']} steps"
    return (
        f"Judged on {data['judge']} samples;"
        f" refits were fitted on {data['fit']} and chosen on {data['held_out']} others{healed}."
    )
