"""All passes by name, in the order in which they run."""

from __future__ import annotations

from passes.clean.drop_empty_masks import DropEmptyMasks
from passes.clean.fold_batch_norm import FoldBatchNorm
from passes.clean.fold_constants import FoldConstants
from passes.clean.merge_duplicates import MergeDuplicates
from passes.clean.merge_pieces import MergePieces
from passes.clean.merge_views import MergeViews
from passes.clean.move_views import MoveViews
from passes.clean.normalize_adds import NormalizeAdds
from passes.clean.normalize_linears import NormalizeLinears
from passes.clean.normalize_synonyms import NormalizeSynonyms
from passes.clean.remove_identities import RemoveIdentities
from passes.fusion.fuse_width import FuseWidth
from passes.precision.cast_precision import CastPrecision
from passes.precision.widen_precision import WidenPrecision
from passes.runner import Pass
from passes.schedule.apply_plan import ApplyPlan

CLEANING: tuple[Pass, ...] = (
    NormalizeSynonyms(),
    RemoveIdentities(),
    MergePieces(),
    NormalizeAdds(),
    FoldConstants(),
    DropEmptyMasks(),
    NormalizeLinears(),
    FoldBatchNorm(),
    MergeViews(),
    MergeDuplicates(),
)

FUSION: tuple[Pass, ...] = (FuseWidth(), MoveViews())

_ALL: tuple[type[Pass], ...] = (
    WidenPrecision,
    *(type(step) for step in CLEANING),
    ApplyPlan,
    *(type(step) for step in FUSION),
    CastPrecision,
)

PASSES: dict[str, type[Pass]] = {step.name: step for step in _ALL}
