"""Where two models predict different classes (Segformer++, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mmtokmerge.visualization.groups import blend

ROWS = 256
"""Rows of a picture that are blended at once: blending takes eight bytes for each of a pixel's."""
DIFFERENCE = (255, 0, 160)
"""A pink that no data set's palette uses for large classes."""


def colour_labels(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]], alpha: float = 0.75
) -> np.ndarray:
    """Lay the classes' colours over an image.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        labels: ``(H, W)`` integers; where the palette has no colour the image stays bare.
        palette: RGB from 0 to 255 of each class.
        alpha: Strength of the colours, 0 to 1.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    colours = np.asarray(palette, dtype=np.uint8)
    picture = image.copy()
    for top in range(0, len(image), ROWS):
        rows, ids = picture[top : top + ROWS], labels[top : top + ROWS]
        known = (ids >= 0) & (ids < len(colours))
        rows[known] = (rows[known] * (1 - alpha) + colours[ids[known]] * alpha).round()
    return picture


def differing(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``(H, W)`` bool: the pixels to which two predictions ``(H, W)`` give different classes.

    Raises:
        ValueError: If the predictions do not have the same size.
    """
    if first.shape != second.shape:
        raise ValueError(f"predictions differ in size: {first.shape} and {second.shape}")
    return first != second


def highlight(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Paint a mask in a bright pink over the pale grey image.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` bool.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    picture = blend(grey, (255, 255, 255), 0.35)
    picture[mask] = DIFFERENCE
    return picture
