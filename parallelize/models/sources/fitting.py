"""Which part of a checkpoint is the state of a module: that which the module itself says fits.

    checkpoint = {..., key: {..., prefix + name: tensor}}     ->     module.load_state_dict({name: tensor})

Training loops nest the state under keys and wrap the module, so names come with prefixes (module., _orig_mod., model.)
or with the name of a wrapper inside. Each mapping of the checkpoint is tried with each prefix that brings its names to
the module's. Judge is `load_state_dict` itself, so that hooks that rename, versions of layers and aliases count:

    fits       nothing is missing, nothing unexpected, all shapes are equal
    is no lack counters of batches, a tensor that another name of the same tensor has brought, state that is no tensor
    is no more counters of batches, a buffer that the module computes itself and that has this very value, no tensors

Outside of a prefix there may be other things, such as the state of a loss; inside of it there may not.
"""

from __future__ import annotations

import operator
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from parallelize.models.capture import first_sentence

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_DEPTH = 6  # of mappings in mappings
_PREFIXES = 12  # that are tried, those that match the most names first
_COUNTER = "num_batches_tracked"
_EXTRA = "_extra_state"
_NEW_NORM = re.compile(r"parametrizations\.(\w+)\.original([01])$")

Rename = Callable[[str], str]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A part of a checkpoint, with the names that it would have in the module.

    Attributes:
        key: the keys that lead to it, joined by points.
        prefix: what was taken off its names.
        state: the tensors and extra state by name.
        left_out: names beside it in its mapping that are not in it.
        problems: why it does not fit; empty where it does.
    """

    key: str
    prefix: str
    state: Mapping[str, Any]
    left_out: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def distance(self) -> tuple[int, int]:
        """How far it is from fitting: what is missing counts before everything else."""
        return sum(problem.endswith("is missing") for problem in self.problems), len(self.problems)

    @property
    def label(self) -> str:
        """What a user calls it."""
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part)

    def is_under(self, key: str) -> bool:
        """Whether the key leads to it, or to a mapping that it is in."""
        return self.label == key.rstrip(".") or self.label.startswith(f"{key.rstrip('.')}.") or self.key == key

    def equals(self, other: Candidate) -> bool:
        """Whether it holds the very same tensors, or the same values under the same names."""
        if self.state.keys() != other.state.keys():  # such as the older names that a hook changes
            return {*map(id, self.state.values())} == {*map(id, other.state.values())}
        pairs = ((value, other.state[name]) for name, value in self.state.items())
        return all(a is b or torch.equal(a, b) if isinstance(a, Tensor) else True for a, b in pairs)


def candidates(module: nn.Module, checkpoint: Any) -> list[Candidate]:
    """All parts of a checkpoint that could be the state of a module, tried on it: it holds any of them afterwards."""
    wanted = {_unwrapped(name) for name in module.state_dict()}
    mappings = list(_mappings(checkpoint, ""))
    likely = [(key, mapping) for key, mapping in mappings if _is_likely(mapping, wanted)]
    tried = likely or sorted(mappings, key=lambda item: -len(item[1]))[:1]  # the largest says what does not fit
    return [candidate for key, mapping in tried for candidate in _of_mapping(module, key, mapping)]


def _is_likely(mapping: Mapping[str, Any], wanted: set[str]) -> bool:
    """Whether a mapping has half as many tensors as the module has names: the moments of one weight have not."""
    return 2 * sum(isinstance(value, Tensor) for value in mapping.values()) >= len(wanted)


def load(module: nn.Module, state: Mapping[str, Any]) -> tuple[str, ...]:
    """Load a state; why it does not fit, empty where it does."""
    own = module.state_dict(keep_vars=True)
    is_meta = any(isinstance(value, Tensor) and value.is_meta for value in own.values())
    try:
        result = module.load_state_dict(state, strict=False, **({"assign": True} if is_meta else {}))
    except Exception as error:  # noqa: BLE001  (hooks of the user's may raise anything at a state that is not theirs)
        return _by_names(own, state) or (first_sentence(error),)
    if result is None:  # a method of the user's own that does not tell
        return _by_names(own, state)
    arrived = {_identity(value) for name, value in own.items() if name in state}
    lacking = [n for n in result.missing_keys if not _is_no_lack(n, own.get(n), arrived)]
    buffers = dict(module.named_buffers())
    more = [n for n in result.unexpected_keys if not _is_no_more(n, state.get(n), buffers.get(n))]
    return (*(f"{n!r} is missing" for n in lacking), *(f"{n!r} is not in the model" for n in more), *_kinds(own, state))


def _is_no_lack(name: str, value: Any, arrived: set[object]) -> bool:
    return name.endswith((_COUNTER, _EXTRA)) or (isinstance(value, Tensor) and _identity(value) in arrived)


def _identity(value: Any) -> object:
    """Equal for what are the same numbers in memory."""
    if not isinstance(value, Tensor) or value.is_meta or _is_lazy(value) or not value.numel():
        return id(value)
    return value.data_ptr(), value.shape, value.stride()


def _is_no_more(name: str, value: Any, buffer: Tensor | None) -> bool:
    if not isinstance(value, Tensor) or name.endswith(_COUNTER):
        return True
    if buffer is None or buffer.is_meta:
        return False
    return buffer.shape == value.shape and torch.equal(buffer.to(value), value)


def _by_names(own: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[str, ...]:
    """What is missing, what is too much and what has another shape, told by names alone."""
    expected = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    held = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return (
        *(f"{name!r} is missing" for name in expected if name not in held and not name.endswith(_COUNTER)),
        *(f"{name!r} is not in the model" for name in held if name not in expected and not name.endswith(_COUNTER)),
        *(
            f"{name!r} has the shape {_sized(held[name].shape)}, the model's {_sized(value.shape)}"
            for name, value in expected.items()
            if name in held and not _is_lazy(value) and held[name].shape != value.shape
        ),
        *_kinds(own, state),
    )


def _kinds(own: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Integers where the module has floating-point numbers: quantized weights, which loading would take for values."""
    pairs = ((name, state[name], value) for name, value in own.items() if name in state)
    return [
        f"{name!r} holds integers ({str(held.dtype).removeprefix('torch.')}), the model's floating-point numbers"
        for name, held, value in pairs
        if isinstance(held, Tensor) and isinstance(value, Tensor)
        if value.is_floating_point() and not (held.is_floating_point() or held.is_complex())
    ]


def _is_lazy(value: Tensor) -> bool:
    return is_lazy(value)


def _sized(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "of a single number"


def _mappings(value: Any, key: str, depth: int = _DEPTH) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All mappings with tensors in a checkpoint, and the keys that lead to them; the state of a module is one."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not depth:
        return
    if any(isinstance(part, Tensor) for part in value.values()):
        yield key, value
    for name, part in value.items():
        if not isinstance(part, Tensor):
            yield from _mappings(part, f"{key}.{name}" if key else str(name), depth - 1)


def _of_mapping(module: nn.Module, key: str, mapping: Mapping[str, Any]) -> list[Candidate]:
    """What a mapping holds: as it is where that fits, else with each prefix taken off, else with its names changed."""
    expected = list(module.state_dict())
    as_it_is = _first_fitting(module, key, mapping, "", [str])
    if not as_it_is.problems:
        return [as_it_is]
    renames = _renames(expected)
    prefixes = _prefixes([str(name) for name in mapping], expected)
    parts = [_first_fitting(module, key, mapping, prefix, renames) for prefix in prefixes]
    if any(not part.problems for part in parts):
        return parts
    return [*parts, _first_fitting(module, key, mapping, "", renames)]


def _first_fitting(
    module: nn.Module, key: str, mapping: Mapping[str, Any], prefix: str, renames: Sequence[Rename]
) -> Candidate:
    """A mapping without a prefix, its names changed in the first way that fits; unchanged where none does."""
    tried: list[Candidate] = []
    for rename in renames:
        state, left_out = _taken(mapping, prefix, rename)
        if tried and state.keys() == tried[0].state.keys():
            continue
        tried.append(Candidate(key, prefix, state, left_out, load(module, state)))
        if not tried[-1].problems:
            return tried[-1]
    return min(tried, key=lambda candidate: len(candidate.problems))


def _taken(mapping: Mapping[str, Any], prefix: str, rename: Rename) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The entries whose names start with the prefix, under their names in the module; and the other names."""
    state: OrderedDict[str, Any] = OrderedDict()
    left_out = []
    for name, value in mapping.items():
        if str(name).startswith(prefix) and (isinstance(value, Tensor) or str(name).endswith(_EXTRA)):
            state[rename(str(name)[len(prefix) :])] = value
        else:
            left_out.append(str(name))
    versions = getattr(mapping, "_metadata", None)
    if isinstance(versions, Mapping):  # by the names of modules; the module without a name is the whole
        inside = {f"{name}.": version for name, version in versions.items() if f"{name}.".startswith(prefix)}
        inside = {rename(name[len(prefix) :]).rstrip("."): version for name, version in inside.items()}
        state._metadata = OrderedDict(inside)  # type: ignore[attr-defined]  # where torch keeps and looks for it
    return state, tuple(left_out)


def _prefixes(names: Sequence[str], expected: Sequence[str]) -> list[str]:
    """Prefixes that bring names to expected ones, the most frequent first, and the common ones."""
    wanted = {_unwrapped(name) for name in expected}
    counts: Counter[str] = Counter()
    for name in names:
        starts = [0, *(place.end() for place in re.finditer(r"\.", name))]
        counts.update(name[:start] for start in starts if start and _unwrapped(name[start:]) in wanted)
    enough = [prefix for prefix, count in counts.most_common(_PREFIXES) if 2 * count >= len(wanted)]
    return list(dict.fromkeys([*enough, *_common(names)]))


def _common(names: Sequence[str]) -> list[str]:
    """The prefixes that all names have, the longest last."""
    if not names:
        return []
    first, parts = names[0], []
    for place in re.finditer(r"\.", first):
        if not all(name.startswith(first[: place.end()]) for name in names):
            break
        parts.append(first[: place.end()])
    return parts


def _renames(expected: Sequence[str]) -> list[Rename]:
    """Ways from the names of a checkpoint to those of the module: as they are, without wrappers, below its own prefix.

    The newer weight norm reads the names of the older one by itself; here it is the other way round as well.
    """
    own = {_unwrapped(name): name for name in expected}
    bare = {_unwrapped(name, "module"): name for name in expected}
    below = [partial(operator.add, start) for start in _common(expected)]
    return [
        str,
        lambda name: own.get(_unwrapped(name), _unwrapped(name)),
        lambda name: own.get(_old_norm(_unwrapped(name)), _unwrapped(name)),
        lambda name: bare.get(_old_norm(_unwrapped(name, "module")), _unwrapped(name)),
        *below,
    ]


def _unwrapped(name: str, *more: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS and part not in more)


def _old_norm(name: str) -> str:
    return _NEW_NORM.sub(lambda found: f"{found[1]}_{'gv'[int(found[2])]}", name)
