"""Targets that tests know the numbers of."""

from __future__ import annotations

from dataclasses import replace

from parallelize.predicting.fitting import started
from parallelize.predicting.target import Rate, Rates, Target

KNOWN: Target = replace(
    started("NVIDIA Known", "9.0", 100, ["bf16", "fp32"]),
    gb_per_s=2000.0,
    half_mb=8.0,
    graph_us=4.0,
    split_us=6.0,
    fixed_us={"product": 3.0, "convolution": 12.0, "attention": 4.0, "norm": 2.5, "pointwise": 1.5, "copy": 2.0},
    rates={
        "bf16": Rates(Rate(1.5, 5000.0), Rate(6.0, 900.0), Rate(2.5, 1500.0)),
        "fp32": Rates(Rate(3.0, 600.0), Rate(9.0, 300.0), Rate(5.0, 400.0)),
    },
    error=0.05,
    error_of="what a test made up",
    measured_on={"date": "2026-01-02"},
)
