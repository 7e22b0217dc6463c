from __future__ import annotations

from parallelize.predicting.kernel import Kernel, Kernels, Launch

PRODUCT = Kernel("product", 10, 2, 3, 4, 5)
ATTENTION = Kernel("attention", 10, 2, 3, 4, 5)
NORM = Kernel("norm", 7)


def test_equal_kernels_are_kept_once_with_how_often_they_are_launched() -> None:
    found = Kernels.of([PRODUCT, NORM, PRODUCT], "bf16")
    assert found == Kernels((Launch(PRODUCT, 2), Launch(NORM, 1)), "bf16")
    assert found.count == 3


def test_an_attention_is_two_products_and_what_is_no_product_has_no_flops() -> None:
    assert (PRODUCT.flops, ATTENTION.flops, NORM.flops) == (240, 480, 0)
    assert Kernels.of([PRODUCT, ATTENTION, NORM, PRODUCT], "bf16").flops == 960
