"""The state of an unfinished run beside its checkpoint: what it is, and all that the next step depends on.

    model.pt.resume          {"identity": ..., "plain": ..., "tensors": {name: tensor}, or the name of a folder}
    model.pt.resume.ranks    where several processes keep tensors, each its own, by torch.distributed.checkpoint

Tensors have names that do not depend on the number of processes, so any number goes on from either. The small file is
replaced in one step, once the folder that it names is whole; a killed run leaves the old ones.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paraformer.checkpoint import read_plain, write_atomically
from paraformer.errors import CheckpointError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

TENSORS = "tensors"
_HINT = "Delete the file to start anew."


def resume_file(output: Path) -> Path:
    """Where the state of the run that writes `output` is kept."""
    return output.with_name(output.name + ".resume")


@dataclass(frozen=True, eq=False)
class Kept:
    """The state of a run.

    Attributes:
        header: what the run is, and values of no size.
        tensors: all, or the folder of them.
    """

    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor] | Path

    def names(self) -> Collection[str]:
        """Of all tensors."""
        return self._sizes() if isinstance(self.tensors, Path) else self.tensors.keys()

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """Some of the tensors, on the CPU.

        Raises:
            CheckpointError: one is not there, or the folder is damaged.
        """
        if not isinstance(self.tensors, Path):
            missing = next((name for name in names if name not in self.tensors), None)
            self._require(missing)
            return {name: self.tensors[name] for name in names}
        sizes = self._sizes()
        self._require(next((name for name in names if name not in sizes), None))
        found = {name: torch.empty(sizes[name].size, dtype=sizes[name].properties.dtype) for name in names}
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.state_dict_loader import load

        try:
            with warnings.catch_warnings():  # each process reads its own, and torch warns of that
                warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
                load(found, storage_reader=FileSystemReader(self.tensors), no_dist=True)
        except (Exception, CheckpointException) as error:  # whatever the bytes of a damaged file make of it
            raise _damaged(self.tensors) from error
        return found

    def _sizes(self) -> Mapping[str, Any]:
        from torch.distributed.checkpoint.filesystem import FileSystemReader

        assert isinstance(self.tensors, Path)
        try:
            return FileSystemReader(self.tensors).read_metadata().state_dict_metadata
        except Exception as error:
            raise _damaged(self.tensors) from error

    def _require(self, missing: str | None) -> None:
        if missing is not None:
            raise CheckpointError(f"The state of the run has no {missing}.", _HINT)


def _damaged(folder: Path) -> CheckpointError:
    return CheckpointError(f"{folder} is not whole.", f"Delete {folder.parent} and the file beside it to start anew.")


def keep_state(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the state of a run of one process; an older one stays whole until the new one is.

    Args:
        path: of the file.
        header: what the run is, and values of no size.
        tensors: by their names.
    """
    write_atomically(path, {**header, TENSORS: _tight(tensors)})
    shutil.rmtree(_folder(path), ignore_errors=True)


def keep_shared_state(
    path: Path,
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    group: ProcessGroup,
    *,
    name: str,
    leads: bool,
) -> None:
    """The same on every process of several; each gives the tensors that it has, and those of all are written once.

    Args:
        path: of the file.
        header: what the run is, and values of no size.
        tensors: that this process has.
        group: the processes.
        name: of this state, another than that of the one before.
        leads: whether this process writes the file.

    Raises:
        CheckpointError: one of the processes cannot write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    folder = _folder(path)
    earlier = [other for other in folder.glob("*") if other.name != name] if leads else []
    try:
        save(_tight(tensors), storage_writer=FileSystemWriter(folder / name), process_group=group)
    except CheckpointException as error:  # raised on every process where one could not write
        rank, (cause, _) = min(error.failures.items())
        raise CheckpointError(
            f"Process {rank} cannot write the state of the run to {folder / name}: {cause}.",
            "Make room, or write to a folder that all processes have in common.",
        ) from error
    if not leads:
        return
    write_atomically(path, {**header, TENSORS: name})
    for other in earlier:  # and nothing that another process begins meanwhile
        shutil.rmtree(other)


def forget_state(path: Path) -> None:
    """Remove the state of a run that is through."""
    path.unlink(missing_ok=True)
    shutil.rmtree(_folder(path), ignore_errors=True)


def kept_state(path: Path, identity: Mapping[str, Any]) -> Kept | None:
    """The state of this run, None where there is none.

    Raises:
        CheckpointError: the file is damaged, or of another run.
    """
    if not path.exists():
        return None
    kept = read_plain(path, _HINT)
    whose = kept.get("identity") if isinstance(kept, dict) else None
    if isinstance(whose, dict) and whose == identity and isinstance(kept, dict):
        return kept_in(path, kept)
    differing = "" if not isinstance(whose, dict) else f": {_differing(whose, identity)}"
    raise CheckpointError(
        f"{path} belongs to a run with other options{differing}.",
        "Use the same options to go on with that run, or delete the file to start anew.",
    )


def kept_in(path: Path, content: Mapping[str, Any]) -> Kept:
    """The state in a file that has been read."""
    tensors = content[TENSORS]
    return Kept(content, _folder(path) / tensors if isinstance(tensors, str) else tensors)


def _folder(path: Path) -> Path:
    return path.with_name(path.name + ".ranks")


def _tight(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of their own memory: what is saved of a part of a tensor would be all of it."""
    return {name: value.detach().clone() if value._is_view() else value.detach() for name, value in tensors.items()}


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return ", ".join(name.replace("_", " ") for name in names)
