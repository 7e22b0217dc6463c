"""What a user may choose of an engine, by name; the command line reads it without torch."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
HardwareCompatibility = Literal["none", "ampere+", "same"]
