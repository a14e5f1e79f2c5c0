"""Token merging in plain torch: assignments, matchers, settings and their cost."""

from .assignment import TokenAssignment
from .bipartite import bipartite_matching
from .local import local_pooling, window_similarity
from .matcher import Matcher, StageMerging
from .neighbours import neighbour_pooling
from .settings import PRESETS, read_merging
from .superpatch import superpatch_sharing

__all__ = [
    "PRESETS",
    "Matcher",
    "StageMerging",
    "TokenAssignment",
    "bipartite_matching",
    "local_pooling",
    "neighbour_pooling",
    "read_merging",
    "superpatch_sharing",
    "window_similarity",
]
