"""Sentences beside the table of a conversion: facts about what was made, and notes that a reader should not miss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parallelize.baselines.networks import AS_IS, DELETED, DELETED_REFITTED, HEALED, REWRITE
from parallelize.terminal.words import counted

_MOST_SUMS = 3  # that are named


def facts(content: Mapping[str, Any]) -> list[str]:
    """What was made, the most important first: of an engine how many of its kernels wait for each other."""
    return [*_engine_facts(content["backend"]), *_unscheduled_facts(content), *_depth_facts(content)]


def notes(content: Mapping[str, Any]) -> list[str]:
    """Sentences that a reader of the table should not miss."""
    found = [*content["warnings"], *_unfused_notes(content)]
    found.extend(_healing_notes(content["healing"]))
    found.extend(_backend_notes(content["backend"]))
    return found if content["unscheduled"] is not None else [*found, *_rewrite_notes(content)]


def _engine_facts(backend: Mapping[str, Any]) -> list[str]:
    """Which backend, and what the engine became."""
    taken = f"Backend {backend['backend']}: {backend['why']}."
    engine = backend["engine"]
    if engine is None:
        return [taken]
    serial, ours = engine["layers"]["serial"], engine["layers"]["rewrite"]
    made = (
        f"{engine['library']}, {engine['precision']}: {ours['critical']} kernels wait for each other,"
        f" {serial['critical']} in the serial engine; built in {engine['build_seconds']:.1f} s for"
        f" {', '.join(engine['targets'])}; takes {'; '.join(engine['profiles'])}."
    )
    if engine["not_run"] is not None:
        return [made, taken]
    times = {name: latency["median"] for name, latency in engine["latency_ms"].items()}
    timed = (
        f"On the GPU: {times['rewrite']:.3f} ms at batch 1, serial {times['serial']:.3f} ms"
        f" ({times['serial'] / times['rewrite']:.2f}x); differs from its graph by"
        f" {engine['errors']['engine against graph']:.1e} of the largest output."
    )
    return [timed, made, taken]


def _unscheduled_facts(content: Mapping[str, Any]) -> list[str]:
    """Why there is no schedule, and what width fusion did."""
    if content["unscheduled"] is None:
        return []
    fused = [line for record in content["passes"] if record["name"] == "fuse-width" for line in record["matches"]]
    named = "; ".join(fused[:_MOST_SUMS]) + (f"; and {len(fused) - _MOST_SUMS} more" * (len(fused) > _MOST_SUMS))
    done = f"Width fusion fused {named}." if fused else "Width fusion found no branches of equal structure."
    return [f"Nothing was scheduled: {content['unscheduled']}. {done}"]


def _depth_facts(content: Mapping[str, Any]) -> list[str]:
    """How many layers a block is where it is not one."""
    several = [stack for stack in content["stacks"] if stack["layers"] != stack["blocks"]]
    return [
        f"Depth counts blocks, and a block of {stack['name']} is {stack['layers'] // stack['blocks']} layers:"
        f" {counted(stack['blocks'], 'block')} of it are {stack['layers']} layers."
        for stack in several
    ]


def _unfused_notes(content: Mapping[str, Any]) -> list[str]:
    """Branches that stay side by side, and groups that no schedule takes because they would."""
    found = []
    skipped = [skip for record in content["passes"] if record["name"] == "fuse-width" for skip in record["skipped"]]
    if skipped:
        count = "1 branch stays" if len(skipped) == 1 else f"{len(skipped)} branches stay"
        found.append(f"{count} side by side, not fused, which gains nothing on a GPU: {skipped[0]['reason']}.")
    found.extend(
        f"Groups of {name} that do not fuse are as deep as serial and were left out of the search: {reason}."
        for name, reason in content["unfused_stacks"].items()
    )
    return found


def _rewrite_notes(content: Mapping[str, Any]) -> list[str]:
    """Where the refit or the rewrite as a whole does not pay."""
    found = []
    networks = {network["name"]: network for network in content["networks"]}
    asked = any(stack["refit"] != "none" for stack in content["plan"]["stacks"])
    if asked and REWRITE not in networks:
        found.append("The refit did not help on held-out samples and was left out.")
    ours = networks.get(HEALED, networks.get(REWRITE, networks[AS_IS]))
    rivals = [networks[name] for name in (DELETED, DELETED_REFITTED) if name in networks]
    metric = content["metric"]["name"]
    if not content["data"]["random"] and any(rival["errors"][metric] < ours["errors"][metric] for rival in rivals):
        found.append(f"Deleting blocks to the same depth measures better in {metric} than the rewrite.")
    return found


def _healing_notes(healing: Mapping[str, Any] | None) -> list[str]:
    if healing is None:
        return []
    steps, ending = healing["steps"], healing["ending"]
    if healing["best_step"] == 0:
        return [f"Healing did not help on held-out samples in {steps} steps and was left out ({ending})."]
    if ending == "diverged":
        return [f"Healing diverged after step {steps}; the weights are those of step {healing['best_step']}."]
    return []


def _backend_notes(backend: Mapping[str, Any]) -> list[str]:
    """What a cast keeps, and what was not run."""
    found = []
    precision, engine = backend["precision"], backend["engine"]
    if precision["kept_in_fp32"] is not None:
        words = {"norms": "norms", "softmax": "softmaxes", "state": "the residual sum"}
        kept = [word for name, word in words.items() if precision["kept_in_fp32"][name]]
        costs = [e["error"] for e in precision["errors"] if e["kept_in_fp32"] == precision["kept_in_fp32"]]
        cost = f"; {precision['metric']} against fp32: {costs[0]:.1e}" if costs else ""
        found.append(f"model.onnx is {precision['dtype']}; in fp32 stay {', '.join(kept) or 'no parts'}{cost}.")
    if precision["out_of_range"] is not None:
        found.append(
            f"{precision['out_of_range'][0].upper()}{precision['out_of_range'][1:]}: {len(precision['kept_for_range'])}"
            " values stay in fp32 for it, and all samples are in the range now."
        )
    if backend["onnx_not_run"] is not None:
        found.append(f"model.onnx was not compared with its graph: {backend['onnx_not_run']}.")
    if engine is not None and engine["not_run"] is not None:
        found.append(f"The engine was not run: {engine['not_run']}")
    return found
