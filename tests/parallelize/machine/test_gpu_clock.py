"""Time on a GPU is told apart from the host's, and a CUDA graph gives what the call gives."""

from __future__ import annotations

import pytest
import torch

from parallelize.machine.gpu_clock import gpu_clock, graphed, new_stream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="times a GPU")


def test_a_call_has_three_times_and_the_host_waits_for_the_result() -> None:
    x, stream = torch.ones(512, 512, device="cuda"), new_stream()
    assert stream != torch.cuda.default_stream()
    with torch.cuda.stream(stream):
        moment = gpu_clock(stream)(lambda: x @ x)
    assert moment.gpu is not None
    assert moment.enqueue is not None
    assert moment.gpu > 0
    assert 0 < moment.enqueue <= moment.host


def test_a_graph_computes_on_what_stands_in_its_inputs_now() -> None:
    x, stream = torch.ones(4, device="cuda"), new_stream()
    with torch.cuda.stream(stream):
        call = graphed(lambda: x * 2, stream)
        x.fill_(3)
        result = call()
    stream.synchronize()
    assert isinstance(result, torch.Tensor)
    assert result.tolist() == [6.0] * 4
    assert call() is result


def test_a_call_that_waits_for_a_result_is_in_no_graph() -> None:
    x, stream = torch.ones(4, device="cuda"), new_stream()
    with torch.cuda.stream(stream), pytest.raises(RuntimeError):
        graphed(lambda: x.sum().item(), stream)
