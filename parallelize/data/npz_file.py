"""Arrays written to an .npz part by part, so that none has to be in memory as a whole."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """An array as its parts along the first axis.

    Attributes:
        shape: of the whole.
        dtype: of its elements; what NumPy does not have is written as float32.
        values: the parts in order.
    """

    shape: Sequence[int]
    dtype: torch.dtype
    values: Iterable[Tensor]


def write_npz(path: Path, arrays: Mapping[str, Parts]) -> None:
    """Write arrays by their names.

    Raises:
        OSError: there is no room, or no such place.
    """
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            kept = np.dtype(str(_kept(array.dtype)).removeprefix("torch."))
            header = {"descr": np.lib.format.dtype_to_descr(kept), "fortran_order": False, "shape": tuple(array.shape)}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_2_0(entry, header)
                for part in array.values:
                    entry.write(np.ascontiguousarray(part.to(_kept(part.dtype)).numpy()).data)


def _kept(dtype: torch.dtype) -> torch.dtype:
    """The dtype in a file: NumPy's own, whatever other ones the process has told it of."""
    try:
        torch.empty(0, dtype=dtype).numpy()
    except TypeError:
        return torch.float32
    return dtype
