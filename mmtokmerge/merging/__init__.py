"""Token merging in plain torch: assignments, matchers, settings and their cost.

Maps from tokens to groups and what is done with them. No parameters, no attention and no layers:
those are ``layers``'.
"""

from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.bipartite import (
    bipartite_matching,
    match_by_count,
    match_by_rate,
    match_by_threshold,
)
from mmtokmerge.merging.local_pooling import local_pooling, window_similarity
from mmtokmerge.merging.matcher import BipartiteMatcher, CellPooling, Matcher, StageMerging
from mmtokmerge.merging.neighbour_pooling import neighbour_pooling
from mmtokmerge.merging.segformer.presets import PRESETS, read_merging
from mmtokmerge.merging.superpatch_sharing import superpatch_sharing

__all__ = [
    "PRESETS",
    "BipartiteMatcher",
    "CellPooling",
    "Matcher",
    "StageMerging",
    "TokenAssignment",
    "bipartite_matching",
    "local_pooling",
    "match_by_count",
    "match_by_rate",
    "match_by_threshold",
    "neighbour_pooling",
    "read_merging",
    "superpatch_sharing",
    "window_similarity",
]
