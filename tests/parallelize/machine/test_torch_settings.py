"""Threads and TF32 hold for a block and are as before behind it, whatever ends it."""

from __future__ import annotations

import pytest
import torch

from parallelize.machine.torch_settings import torch_settings, whole_float32


def settings() -> tuple[int, bool, bool]:
    return (
        torch.get_num_threads(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


@pytest.mark.parametrize("tf32", [False, True])
def test_settings_hold_in_the_block_and_go_with_whatever_ends_it(tf32: bool) -> None:
    before = settings()
    with torch_settings(before[0] + 1, tf32=tf32):
        assert settings() == (before[0] + 1, tf32, tf32)
        with torch_settings(1, tf32=not tf32):
            assert settings() == (1, not tf32, not tf32)
        assert settings() == (before[0] + 1, tf32, tf32)
    assert settings() == before
    with pytest.raises(KeyError), torch_settings(2, tf32=tf32):
        raise KeyError
    assert settings() == before


def test_no_product_is_shortened_in_a_fit_whatever_the_caller_has_set() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with whole_float32():
            assert (torch.get_float32_matmul_precision(), *settings()[1:]) == ("highest", False, False)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
