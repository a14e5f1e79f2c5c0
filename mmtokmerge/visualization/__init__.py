"""Pictures of merged tokens and of how two models' predictions differ."""

from __future__ import annotations

from mmtokmerge.visualization.differences import colour_labels, differing, highlight
from mmtokmerge.visualization.figures import difference_figure, token_figure
from mmtokmerge.visualization.groups import draw_groups, draw_tokens
from mmtokmerge.visualization.layout import Panel, panel_figure
from mmtokmerge.visualization.record import MergedTokens, encode_one, merges, record_assignments

__all__ = [
    "MergedTokens",
    "Panel",
    "colour_labels",
    "difference_figure",
    "differing",
    "draw_groups",
    "draw_tokens",
    "encode_one",
    "highlight",
    "merges",
    "panel_figure",
    "record_assignments",
    "token_figure",
]
