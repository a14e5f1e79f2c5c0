"""Pictures of merged tokens and of how two models' predictions differ.

Pixels from arrays and assignments; running a model and choosing images is done by who asks.
"""

from __future__ import annotations

from mmtokmerge.visualization.differences import colour_labels, differing, highlight
from mmtokmerge.visualization.encode import encode_one
from mmtokmerge.visualization.figures import difference_figure, token_figure
from mmtokmerge.visualization.groups import draw_groups, draw_tokens
from mmtokmerge.visualization.layout import Panel, panel_figure
from mmtokmerge.visualization.merged import MergedTokens, WindowSimilarity
from mmtokmerge.visualization.record import merges, record_assignments
from mmtokmerge.visualization.similarity import draw_similarity

__all__ = [
    "MergedTokens",
    "Panel",
    "WindowSimilarity",
    "colour_labels",
    "difference_figure",
    "differing",
    "draw_groups",
    "draw_similarity",
    "draw_tokens",
    "encode_one",
    "highlight",
    "merges",
    "panel_figure",
    "record_assignments",
    "token_figure",
]
