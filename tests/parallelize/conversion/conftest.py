"""Samples for conversions with an engine, and such conversions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parallelize.backends.tensorrt.library import RTX
from parallelize.backends.tensorrt.options import Precision
from parallelize.conversion.convert import Conversion, convert
from parallelize.conversion.options import ConvertOptions, EngineOptions
from tests.parallelize.conversion.engine_cases import Converted
from tests.parallelize.small_models import images, pairs, text, vision


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "images.npz", images=images(60, 1).arrays["images"].numpy())
    np.savez(folder / "text.npz", **{name: array.numpy() for name, array in text(60, 0).arrays.items()})
    np.savez(folder / "rows.npz", x=np.random.default_rng(0).standard_normal((60, 8)).astype("f4"))
    return folder


@pytest.fixture(scope="module")
def converted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    made: dict[Precision, Conversion] = {}

    def get(precision: Precision) -> Conversion:
        if precision not in made:
            made[precision] = convert(
                vision(2),
                tmp_path_factory.mktemp(precision) / "out",
                inputs=data / "images.npz",
                options=ConvertOptions(plan=pairs("none", 2), rounds=1, engine=EngineOptions(RTX, precision)),
            )
        return made[precision]

    return get
