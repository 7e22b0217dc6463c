"""Threads and TF32 hold for a block and are as before behind it, whatever ends it."""

from __future__ import annotations

import pytest
import torch

from parallelize.machine.torch_settings import torch_settings


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
