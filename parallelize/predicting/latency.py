"""How long networks take on a target: the sum over their kernels, as a CUDA graph runs them one after another.

    t = t_graph + sum over kernels of ( t_fix + max( t_bytes, t_tiles ) )
    t_bytes = bytes / (B u)                         u = sqrt( bytes / (bytes + half) )
    t_tiles = min over tiles and splits of  waves * (k / split) * (t_step + 2 tile_m tile_n / rate) + (t_split)
    waves   = ceil( split * batch * ceil(m / tile_m) * ceil(n / tile_n) / SMs )

t_fix is of the kernel's kind and its floor. u is the ramp of the bandwidth: a kernel of few bytes ends before all of
the memory's channels are busy. Products choose among tiles as libraries do, and may split k among SMs that would be
idle; a fused attention has tiles of 128 queries and one step for each key, in which a query meets it twice (scores,
values). Kernels run one after another: what a schedule puts side by side saves time only where width fusion makes fewer
kernels of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from parallelize.predicting.kernel import KINDS, Kernel, Kernels, Precision
from parallelize.predicting.target import Rate, Target

Numbers = NDArray[np.float64]

TILES = ((64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128))
SPLITS = (1, 2, 4, 8)
QUERIES = 128  # of a tile of an attention


def milliseconds(kernels: Kernels, target: Target) -> float:
    """The predicted latency of one call.

    Raises:
        ParallelizeError: the target has no numbers for the precision of the kernels.
    """
    return float(Predictor([kernels], target.sms).microseconds(target)[0]) / 1e3


@dataclass(frozen=True)
class _Tiled:
    """Kernels of one kind and precision that work in tiles.

    Attributes:
        places: of these kernels among all.
        steps: (choices, kernels), steps along k of an SM, all its waves together.
        area: (choices, 1), products of a tile in one step.
        splits: (choices, 1), whether k is split.
    """

    places: NDArray[np.intp]
    steps: Numbers
    area: Numbers
    splits: Numbers

    def microseconds(self, rate: Rate, split_us: float) -> Numbers:
        """Of the quickest choice for each kernel."""
        times = self.steps * (rate.step_ns + 2 * self.area / rate.gflops) / 1e3 + self.splits * split_us
        least: Numbers = times.min(axis=0)
        return least


class Predictor:
    """Networks whose latencies are asked for again and again, as a fit does.

    Args:
        networks: the kernels of each.
        sms: of the target; what does not change while its other numbers do.
    """

    def __init__(self, networks: Sequence[Kernels], sms: int) -> None:
        self._networks = networks
        self._sms = sms
        self._owned = [(place, launch) for place, network in enumerate(networks) for launch in network.launches]
        self._owner = np.array([place for place, _ in self._owned], dtype=np.intp)
        self._times = np.array([launch.times for _, launch in self._owned], dtype=np.float64)
        self._bytes = np.array([launch.kernel.bytes for _, launch in self._owned], dtype=np.float64)
        self._kind = np.array([KINDS.index(launch.kernel.kind) for _, launch in self._owned], dtype=np.intp)

    def microseconds(self, target: Target) -> Numbers:
        """(networks,), the latency of each.

        Raises:
            ParallelizeError: the target has no numbers for a precision.
        """
        kernels = self._times * self.kernels(target)
        return np.asarray(target.graph_us + np.bincount(self._owner, kernels, len(self._networks)), dtype=np.float64)

    def kernels(self, target: Target) -> Numbers:
        """(kernels,), microseconds of each, launched once."""
        tiles = np.zeros(len(self._owned))
        for (precision, kind), tiled in self._tiled.items():
            target.require(precision)
            rate: Rate = getattr(target.rates[precision], kind)
            tiles[tiled.places] = tiled.microseconds(rate, target.split_us)
        ramp = np.sqrt(self._bytes / (self._bytes + target.half_mb * 1e6))
        moved = self._bytes / (np.maximum(ramp, 1e-12) * target.gb_per_s * 1e3)
        fixed = np.array([target.fixed_us[kind] for kind in KINDS])
        result: Numbers = fixed[self._kind] + np.maximum(moved, tiles)
        return result

    @cached_property
    def _tiled(self) -> dict[tuple[Precision, str], _Tiled]:
        """What works in tiles, by precision and kind."""
        groups: dict[tuple[Precision, str], list[int]] = {}
        for place, (network, launch) in enumerate(self._owned):
            if launch.kernel.kind in ("product", "convolution", "attention"):
                key = (self._networks[network].precision, launch.kernel.kind)
                groups.setdefault(key, []).append(place)
        return {key: self._tiles(key[1], places) for key, places in groups.items()}

    def _tiles(self, kind: str, places: Sequence[int]) -> _Tiled:
        kernels = [self._owned[place][1].kernel for place in places]
        if kind == "attention":
            waves = _waves(kernels, self._sms, (QUERIES, None), 1)
            area = np.array([[float(2 * QUERIES * kernel.inner) for kernel in kernels]])
            steps = waves * np.array([float(kernel.columns) for kernel in kernels])
            return _Tiled(np.array(places), steps[None], area, np.zeros((1, 1)))
        choices = [(tile, split) for split in (SPLITS if kind == "product" else (1,)) for tile in TILES]
        inner = np.array([float(kernel.inner) for kernel in kernels])
        steps = np.stack([_waves(kernels, self._sms, tile, split) * inner / split for tile, split in choices])
        area = np.array([[float(tile[0] * tile[1])] for tile, _ in choices])
        return _Tiled(np.array(places), steps, area, np.array([[float(split > 1)] for _, split in choices]))


def _waves(kernels: Iterable[Kernel], sms: int, tile: tuple[int, int | None], split: int) -> Numbers:
    """How often all SMs take a tile, for each kernel; a tile of no columns has all of them."""
    tiles = [
        split * kernel.batch * -(-kernel.rows // tile[0]) * (-(-kernel.columns // tile[1]) if tile[1] else 1)
        for kernel in kernels
    ]
    return np.ceil(np.array(tiles, dtype=np.float64) / sms)
