"""All passes by name, in the order in which `convert` runs them."""

from __future__ import annotations

from passes.apply_plan import ApplyPlan
from passes.fuse_width import FuseWidth
from passes.infra import Pass
from passes.remove_identities import RemoveIdentities

PASSES: dict[str, type[Pass]] = {step.name: step for step in (RemoveIdentities, ApplyPlan, FuseWidth)}
