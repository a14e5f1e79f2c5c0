"""Drawing how alike the tokens of each window are (ALGM, figure 9 b)."""

from __future__ import annotations

import math

import matplotlib
import numpy as np

from mmtokmerge.visualization.groups import draw_covered, resize_nearest
from mmtokmerge.visualization.layout import ColourBar
from mmtokmerge.visualization.merged import MergedTokens

COLOURS = "viridis"
STEP = 0.1


def similarity_bar(values: np.ndarray, threshold: float) -> ColourBar:
    """The colours of cosines from the least of ``values`` and ``threshold``, rounded down, to 1."""
    least = min(float(values.min(initial=1.0)), threshold, 1.0 - STEP)
    low = max(-1.0, math.floor(least / STEP + 1e-6) * STEP)
    return ColourBar(COLOURS, low, 1.0, threshold, f"mean cosine; line: τ {threshold:.4g}")


def draw_similarity(
    image: np.ndarray, tokens: MergedTokens, index: int = 0, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, ColourBar]:
    """Paint each window in the colour of its similarity; what is in no window is darkened.

    Args:
        image: ``(H, W, 3)`` uint8, what the encoder saw.
        tokens: A record that has ``windows``.
        index: Which image of the recorded batch.
        size: ``(H', W')`` of the picture, the image's own where None.

    Returns:
        ``(H', W', 3)`` uint8, and the bar that says what the colours mean.

    Raises:
        ValueError: If the record has no windows.
    """
    if tokens.windows is None:
        raise ValueError(f"{tokens.place} has no windows to draw")
    values = tokens.windows.values[index].float().cpu().numpy()  # (rows, columns)
    bar = similarity_bar(values, tokens.windows.threshold)
    shades = (values - bar.low) / (bar.high - bar.low)
    colours = matplotlib.colormaps[COLOURS](shades, bytes=True)[..., :3]  # (rows, columns, 3)
    sides = zip(values.shape, tokens.windows.window, tokens.hw, tokens.covered)
    covered = tuple(cells * cell / tokens_ * part for cells, cell, tokens_, part in sides)
    image = resize_nearest(image, size or image.shape[:2])
    return draw_covered(image, covered, lambda part: resize_nearest(colours, part.shape[:2])), bar
