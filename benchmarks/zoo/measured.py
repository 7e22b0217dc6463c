"""All checks of one architecture, as plain values that are kept as JSON."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import fx

from benchmarks.zoo.checks import (
    eager_error,
    fuse,
    is_serial_to_the_bit,
    kinds,
    longest_path,
    onnx_error,
    operators,
    picard_error,
)
from benchmarks.zoo.entry import Entry
from parallelize.models.clean import clean
from passes.errors import ParallelizeError
from passes.graph.measures import critical_gemms
from passes.stacks.accounting import unaccounted
from passes.stacks.find import Stacks, find_stacks

FORMS = ("sublayer", "block")
LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")

Result = dict[str, Any]


def measure(entry: Entry, *, onnx: bool = True) -> Result:
    """All checks of one architecture; a check that fails is recorded with what it said."""
    versions = {name: version(name) for name in LIBRARIES}
    today = dt.datetime.now(dt.timezone.utc).date().isoformat()
    result: Result = {"date": today, "versions": versions, "failed": {}}
    attempt = _Attempts(result["failed"])
    if entry.uncaptured:
        return {**result, "refused_capture": attempt("captured", lambda: refusal_of_capture(entry))}
    program = attempt("captured", lambda: entry.capture(torch.float64))
    if program is None:
        return result
    inputs = list(entry.inputs(torch.float64).values())
    result["eager"] = attempt("eager", lambda: eager_error(entry, program))
    module = attempt("cleaned", lambda: clean(program, inputs)[0].module)
    if module is None:
        return result
    found = find_stacks(module)
    result |= structure(entry, module, found)
    result["serial"] = attempt("serial", lambda: is_serial_to_the_bit(module, found.stacks, inputs))
    result["picard"] = attempt("picard", lambda: picard_error(module, found.stacks, inputs))
    for form in FORMS:
        result[form] = attempt(form, lambda form=form: vars(fuse(module, form, inputs)))
    return with_onnx(entry, result) if entry.onnx and onnx else result


def with_onnx(entry: Entry, result: Result) -> Result:
    """A result with what ONNX Runtime gives, the check that takes longest."""
    failed = dict(result["failed"])
    return {**result, "onnx": _Attempts(failed)("onnx", lambda: onnx_error(entry)), "failed": failed}


def structure(entry: Entry, module: fx.GraphModule, found: Stacks) -> Result:
    """What was found in the graph, and whether it is what the zoo expects."""
    terms = {term.add for stack in found.stacks for term in stack.terms}
    return {
        "stacks": [stack.summary() for stack in found.stacks],
        "as_expected": is_expected(entry, found),
        "refused": [refusal.reason for refusal in found.refused],
        "silent": list(unaccounted(module, found)),
        "terms": len(terms),
        "depth": longest_path(module, terms),
        "products": critical_gemms(module),
        "operators": operators(module),
    }


def is_expected(entry: Entry, found: Stacks) -> bool:
    """Whether the stacks and the number of refused adds are those that the zoo names; True where it names none."""
    if entry.stacks is None:
        return True
    return kinds(found.stacks) == list(entry.stacks) and len(found.refused) == len(entry.refused)


def refusal_of_capture(entry: Entry) -> str:
    """What a capture is refused with, files of libraries by their place in them; an error of another kind is none."""
    try:
        entry.capture(torch.float64)
    except ParallelizeError as error:
        sentence = str(error).splitlines()[0]
    else:
        raise AssertionError(f"{entry.name} is captured")
    assert entry.uncaptured in sentence, sentence
    return re.sub(r"\(\S*site-packages/", "(", sentence)


class _Attempts:
    """Runs checks and records what those that fail say."""

    def __init__(self, failed: dict[str, str]) -> None:
        self.failed = failed

    def __call__(self, name: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # noqa: BLE001  (a benchmark reports whatever a check raises)
            lines = str(error).splitlines() or [""]
            self.failed[name] = f"{type(error).__name__}: {lines[0]}"
            return None
