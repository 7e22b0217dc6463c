"""All passes by name, in the order in which they run."""

from __future__ import annotations

from passes.apply_plan import ApplyPlan
from passes.cast_precision import CastPrecision
from passes.drop_empty_masks import DropEmptyMasks
from passes.fold_batch_norm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.fuse_width import FuseWidth
from passes.infra import Pass
from passes.merge_duplicates import MergeDuplicates
from passes.merge_pieces import MergePieces
from passes.merge_views import MergeViews
from passes.move_views import MoveViews
from passes.normalize_adds import NormalizeAdds
from passes.normalize_linears import NormalizeLinears
from passes.normalize_synonyms import NormalizeSynonyms
from passes.remove_identities import RemoveIdentities
from passes.widen_precision import WidenPrecision

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
