"""All networks of a comparison at once, for tests that look at several."""

from __future__ import annotations

from typing import Any

from parallelize.baselines.networks import Variants, each_network, taken
from parallelize.models.network import Network


def build_variants(*arguments: Any, **named: Any) -> Variants[Network]:
    """What `each_network` makes of the same arguments, nothing let go."""
    return taken(each_network(*arguments, **named), lambda network: network)
