"""What is asked for beside how a model learns."""

from __future__ import annotations

from paraformer.data.idx import FASHION_MNIST
from parallelize.cli.training_options import Samples, Sizes


def test_only_sizes_that_are_asked_for_are_given() -> None:
    assert Sizes().given == {}
    assert Sizes(width=32, mode="serial").given == {"width": 32, "mode": "serial"}


def test_the_default_data_is_that_of_the_package() -> None:
    assert Samples().data == FASHION_MNIST
