"""The page of a conversion, report.html: the table, notes, diagrams, refits, the machine and the plan."""

from __future__ import annotations

import html
from dataclasses import fields
from string import Template

from parallelize.conversion.notes import facts, notes
from parallelize.conversion.prefix_report import prefix_section
from parallelize.conversion.result import Result
from parallelize.conversion.table import legend, table

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
<p>$meaning $timing</p>
$prefixes
<h2>Before and after</h2><div class="pair">$before $after</div>
<h2>Refit, level by level</h2><table>$levels</table>
<h2>Machine</h2><table>$machine</table>
<h2>Plan</h2><pre>$plan</pre>
</body></html>
""")


def page(result: Result, before: str, after: str, curve: str = "") -> str:
    """HTML that needs no other file.

    Args:
        result: of a conversion.
        before: the diagram of the serial network, SVG.
        after: the diagram of the product.
        curve: the picture of the prefixes, where there are any.
    """
    return _PAGE.substitute(
        title=html.escape(f"{result.model}: depth into width"),
        warnings="".join(f'<p class="warning">{html.escape(text)}</p>' for text in notes(result)),
        facts="".join(f"<p>{html.escape(text)}</p>" for text in facts(result)),
        rows=_networks(result),
        meaning=html.escape(f"{legend(result)}{_judged(result)}"),
        timing=_timing(result),
        prefixes=prefix_section(result, curve),
        before=before,
        after=after,
        levels=_levels(result),
        machine=_machine(result),
        plan=html.escape(result.plan.to_json()),
    )


def _timing(result: Result) -> str:
    """How latency was measured; empty where it was not."""
    latency, threads = result.serial.onnxruntime_ms, result.measured_on.onnxruntime_threads
    if latency is None:
        return ""
    where = f"batch {result.data.batch}, {threads} thread(s), {latency.rounds} rounds in turn"
    return f"Latency: ONNX Runtime on the CPU, {where}."


def _networks(result: Result) -> str:
    """The rows of the table that stands on the terminal."""
    shown = table(result)
    heads = "".join(f"<th>{html.escape(str(column.header)).replace(chr(10), '<br>')}</th>" for column in shown.columns)
    cells = zip(*(list(column.cells) for column in shown.columns), strict=True)
    rows = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in cells)
    return f"<tr>{heads}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows)


def _levels(result: Result) -> str:
    heads = "<tr><th>level</th><th>refit</th><th>ridge</th><th>error before</th><th>after</th></tr>"
    return heads + "".join(
        f"<tr><td>{html.escape(level.stack)} {level.level + 1}</td><td>{level.strength}</td>"
        f"<td>{level.ridge:g}</td><td>{level.before:.2e}</td><td>{level.after:.2e}</td></tr>"
        for level in result.refit
    )


def _machine(result: Result) -> str:
    values = {part.name: getattr(result.measured_on, part.name) for part in fields(result.measured_on)}
    values["searched and judged on"] = result.device
    return "".join(f"<tr><td>{name}</td><td>{html.escape(str(value))}</td></tr>" for name, value in values.items())


def _judged(result: Result) -> str:
    data, healing = result.data, result.healing
    if data.random:
        return f"Run on {data.judge} random samples, which say nothing about accuracy."
    healed = "" if healing is None else f", so was the healing of {healing.steps} steps"
    return (
        f"Judged on {data.judge} samples;"
        f" refits were fitted on {data.fit} and chosen on {data.held_out} others{healed}."
    )
