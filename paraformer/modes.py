"""How the blocks of a Para-Former run; the command line reads it without torch."""

from __future__ import annotations

from typing import Literal

Mode = Literal["serial", "para-former"]
