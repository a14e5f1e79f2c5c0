"""Token merging in plain torch: assignments, matchers, settings and their cost."""

from .assignment import TokenAssignment
from .bipartite import bipartite_matching
from .neighbours import neighbour_pooling
from .settings import PRESETS, Matcher, StageMerging, read_merging

__all__ = [
    "PRESETS",
    "Matcher",
    "StageMerging",
    "TokenAssignment",
    "bipartite_matching",
    "neighbour_pooling",
    "read_merging",
]
