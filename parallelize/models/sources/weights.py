"""`--weights`: the state of a module, found in what a training loop wrote, loaded where it fits exactly."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from parallelize.models.source import LoadOptions
from parallelize.models.sources.fitting import Candidate, candidates, load
from parallelize.models.sources.state_files import read_weights, shard_hint
from passes.errors import ParallelizeError

_SHOWN = 3  # names in a sentence
_log = logging.getLogger(__name__)


def load_weights(module: nn.Module, options: LoadOptions, reference: str) -> None:
    """Load `--weights` where they are given; what was taken off names and what was left out is logged.

    Raises:
        ParallelizeError: nothing in the file fits, naming the first thing that does not; or several things fit that are
            not equal, and no `--weights-key` chooses.
    """
    if options.weights is None:
        return
    path = Path(options.weights)
    found = candidates(module, read_weights(path, allow_pickle=options.allow_pickle))
    if options.weights_key is not None:
        found = _under(options.weights_key, found, path)
    if not found:
        raise ParallelizeError(
            f"{path} holds no state dict.", "Save the weights with torch.save(model.state_dict(), FILE)."
        )
    fitting = [candidate for candidate in found if not candidate.problems]
    if not fitting:
        raise _misfit(found, path, reference)
    chosen, *others = fitting
    if not all(chosen.equals(other) for other in others):
        labels = [candidate.label or "the file itself" for candidate in fitting]
        raise ParallelizeError(
            f"{path} holds several states that fit {reference}: {_listed(labels)}.",
            f"Choose one with --weights-key {fitting[-1].label}.",
        )
    load(module, chosen.state)
    note = _note(chosen)
    if note:
        _log.warning("%s: %s.", path, note)


def _under(key: str, found: Sequence[Candidate], path: Path) -> list[Candidate]:
    under = [candidate for candidate in found if candidate.is_under(key)]
    if under:
        return under
    labels = dict.fromkeys(candidate.label for candidate in found if candidate.label)
    known = f"it has {_listed(list(labels))}" if labels else "its weights are under none"
    raise ParallelizeError(f"{path} has no weights under the key {key!r}: {known}.", "Name one of these, or no key.")


def _misfit(found: Sequence[Candidate], path: Path, reference: str) -> ParallelizeError:
    best = min(found, key=lambda candidate: candidate.distance)
    where = f" under {best.label!r}" if best.label else ""
    more = f", and {len(best.problems) - 1} more keys do not fit" if len(best.problems) > 1 else ""
    hint = shard_hint(path) or "Give the weights of this very model."
    if any("lora_" in name for name in best.state):
        hint = "They are a LoRA adapter: merge it with merge_and_unload() of peft, and save the state dict."
    return ParallelizeError(f"{path} does not fit {reference}{where}: {best.problems[0]}{more}.", hint)


def _note(chosen: Candidate) -> str:
    parts = []
    if chosen.key:
        parts.append(f"weights from {chosen.key!r}")
    if chosen.prefix:
        parts.append(f"prefix {chosen.prefix!r} taken off")
    if chosen.left_out:
        parts.append(f"left out {_listed(chosen.left_out)}")
    return ", ".join(parts)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
