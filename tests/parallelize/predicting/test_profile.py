"""A target from a sweep: with the latencies of a GPU whose numbers are known here, with measured ones on a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from parallelize.machine.latency import Moment
from parallelize.predicting import profile as profile_module
from parallelize.predicting.fitting import Measured, errors, started
from parallelize.predicting.kernel import Kernels
from parallelize.predicting.latency import Predictor, milliseconds
from parallelize.predicting.profile import fitted_to, profile_gpu
from parallelize.predicting.sweep import Call, Trial, sweep
from parallelize.predicting.target import Target, load_target
from passes.errors import EnvironmentLackError
from tests.parallelize.predicting.targets import KNOWN
from tests.parallelize.predicting.test_fitting import NETWORKS

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="measures a GPU")


@pytest.fixture(scope="module")
def profiled() -> Target:
    """Of a sweep that a known GPU answers, each latency off by about two percent."""
    trials = [trial.kernels for trial in sweep(["bf16"])]
    exact = Predictor(trials, KNOWN.sms).microseconds(KNOWN)
    noise = np.exp(0.02 * np.random.default_rng(0).standard_normal(len(trials)))
    measured = [Measured(kernels, float(time)) for kernels, time in zip(trials, exact * noise, strict=True)]
    return fitted_to(measured, started(KNOWN.gpu, KNOWN.compute_capability, KNOWN.sms, ["bf16"]))


def test_a_sweep_tells_the_latencies_of_networks(profiled: Target) -> None:
    networks = [Measured(network, milliseconds(network, KNOWN) * 1e3) for network in NETWORKS]
    assert max(map(abs, errors(networks, profiled))) < 0.05


def test_a_sweep_tells_the_numbers_themselves(profiled: Target) -> None:
    assert profiled.gb_per_s == pytest.approx(KNOWN.gb_per_s, rel=0.1)
    assert profiled.graph_us == pytest.approx(KNOWN.graph_us, rel=0.2)
    for kind, fixed in KNOWN.fixed_us.items():
        assert profiled.fixed_us[kind] == pytest.approx(fixed, rel=0.2)
    assert profiled.rates["bf16"].product.gflops == pytest.approx(KNOWN.rates["bf16"].product.gflops, rel=0.1)


def test_a_profile_says_how_good_it_is_and_when_it_was_made(profiled: Target, tmp_path: Path) -> None:
    assert 0.005 < profiled.error < 0.03
    assert profiled.error_of == f"{len(sweep(['bf16']))} chains of kernels that the numbers were fitted to"
    assert profiled.measured_on["torch"] == torch.__version__
    profiled.write(tmp_path / "my.json")
    assert load_target(str(tmp_path / "my.json")) == replace(profiled, rates=dict(profiled.rates))


@without_gpu
def test_without_a_gpu_there_is_nothing_to_profile() -> None:
    with pytest.raises(EnvironmentLackError, match=r"There is no CUDA GPU to profile\.") as caught:
        profile_gpu()
    assert "--target h200" in caught.value.hint


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(EnvironmentLackError, match="no GPU cuda:99"):
        profile_gpu("cuda:99")


def test_each_chain_is_made_on_the_gpu_held_in_a_graph_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With doubles of what needs a GPU: every replay of a chain takes what the known GPU takes for it."""
    asked: list[tuple[object, bool]] = []
    trials = sweep(["tf32"])
    times = {id(trial): milliseconds(replace(trial.kernels, precision="bf16"), KNOWN) for trial in trials}
    replayed: list[float] = []

    def made(trial: Trial) -> Trial:
        def make(device: torch.device) -> Call:
            asked.append((device, torch.backends.cuda.matmul.allow_tf32))
            return lambda: replayed.append(times[id(trial)])

        return Trial(trial.kernels, make)

    def clock(call: Call) -> Moment:
        replayed.clear()
        call()
        return Moment(0.0, 0.0, sum(replayed))

    facts = SimpleNamespace(name=KNOWN.gpu, major=9, minor=0, multi_processor_count=KNOWN.sms)
    monkeypatch.setattr(profile_module, "choose_device", lambda _name: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(profile_module, "sweep", lambda _precisions: [made(trial) for trial in trials])
    monkeypatch.setattr(profile_module, "new_stream", lambda: None)
    monkeypatch.setattr(profile_module, "gpu_clock", lambda _stream: clock)
    monkeypatch.setattr(profile_module, "graphed", lambda call, _stream: call)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: facts)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: nullcontext())
    said: list[str] = []
    target = profile_gpu(precisions=["tf32"], report=lambda what, _share: said.append(what))
    assert {tf32 for _, tf32 in asked} == {True}
    assert len(asked) == len(trials)
    assert said[-1] == "fitting the numbers"
    assert (target.gpu, target.compute_capability, target.sms) == ("NVIDIA Known", "9.0", 100)
    assert target.error < 0.02


@with_gpu
def test_a_profile_of_this_gpu_predicts_a_chain_that_it_was_not_fitted_to() -> None:
    target = profile_gpu(precisions=["fp16"])
    assert target.gpu == torch.cuda.get_device_name()
    assert target.error < 0.3
    assert milliseconds(Kernels((), "fp16"), target) < 0.1
