"""Fields that a command line may offer."""

from __future__ import annotations

from dataclasses import dataclass, fields

from paraformer.training.offered import offered


@dataclass(frozen=True)
class Options:
    count: int = offered(3, "How many.", least=1, most=9)
    name: str | None = offered(None, "Of what.")
    inner: float = 0.5


def test_a_field_says_what_a_command_line_needs_and_keeps_its_default() -> None:
    count, name, inner = fields(Options)
    assert count.metadata["option"] == {"help": "How many.", "shows_default": True, "least": 1, "most": 9}
    assert not name.metadata["option"]["shows_default"]
    assert not inner.metadata
    assert Options() == Options(3, None, 0.5)
