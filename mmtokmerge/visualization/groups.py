"""Drawing a token assignment: groups in the mean colour of their pixels, lines between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmtokmerge.visualization.merged import MergedTokens

BORDER_STRENGTH = 0.5
UNCOVERED_STRENGTH = 0.25


def draw_groups(
    image: np.ndarray,
    groups: np.ndarray,
    hw: tuple[int, int],
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Fill each group of tokens with its mean colour and draw a line where two groups meet.

    Tokens lie on the image as a resize by nearest neighbour would put them.

    Args:
        image: ``(H, W, 3)`` uint8.
        groups: ``(h*w,)`` integers from 0, the group of each token in raster order.
        hw: The grid ``(h, w)`` of the tokens.
        size: ``(H', W')`` of the picture, the image's own where None. Lines are one pixel wide.

    Returns:
        ``(H', W', 3)`` uint8.

    Raises:
        ValueError: If ``groups`` does not have one entry for each token of ``hw``.
    """
    groups = np.asarray(groups)
    if groups.shape != (hw[0] * hw[1],):
        raise ValueError(f"groups of the grid {hw} must be ({hw[0] * hw[1]},), got {groups.shape}")
    image = resize_nearest(image, size or image.shape[:2])
    labels = resize_nearest(groups.reshape(hw), image.shape[:2])  # (H', W')
    flat = labels.ravel()
    counts = np.bincount(flat).clip(min=1)
    sums = [np.bincount(flat, weights=channel.ravel()) for channel in np.moveaxis(image, 2, 0)]
    colours = (np.stack(sums, axis=1) / counts[:, None]).round().astype(np.uint8)  # (M, 3)
    picture = colours[labels]
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    lines = picture[border]
    bright = lines.mean(axis=1) > 150
    lines[bright] = blend(lines[bright], (0, 0, 0), BORDER_STRENGTH)
    lines[~bright] = blend(lines[~bright], (255, 255, 255), BORDER_STRENGTH)
    picture[border] = lines
    return picture


def draw_tokens(
    image: np.ndarray, tokens: MergedTokens, index: int = 0, size: tuple[int, int] | None = None
) -> np.ndarray:
    """:func:`draw_groups` of one image's recorded tokens; what their grid leaves out is darkened.

    Args:
        image: ``(H, W, 3)`` uint8, what the encoder saw.
        tokens: A record of :func:`mmtokmerge.visualization.record_assignments`.
        index: Which image of the recorded batch.
        size: ``(H', W')`` of the picture, the image's own where None.

    Returns:
        ``(H', W', 3)`` uint8.
    """
    image = resize_nearest(image, size or image.shape[:2])
    groups = tokens.groups(index).cpu().numpy()
    return draw_covered(image, tokens.covered, lambda part: draw_groups(part, groups, tokens.hw))


def draw_covered(
    image: np.ndarray,
    covered: tuple[float, float],
    draw: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Let ``draw`` replace the part of an image that a grid covers; the rest is darkened.

    Args:
        image: ``(H, W, 3)`` uint8.
        covered: Fractions of the height and width from the top left; nothing is drawn where one
            is 0.
        draw: Given the covered part, makes a picture of its size.
    """
    picture = blend(image, (0, 0, 0), 1 - UNCOVERED_STRENGTH)
    if min(covered) > 0:
        height, width = (max(1, round(side * part)) for side, part in zip(image.shape[:2], covered))
        picture[:height, :width] = draw(image[:height, :width])
    return picture


def resize_nearest(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize ``(h, w, ...)`` to ``(H, W, ...)`` by nearest neighbour, as torch's 'nearest'."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, grid.shape[:2]))
    return grid[rows[:, None], columns[None, :]]


def blend(image: np.ndarray, colour: tuple[int, int, int], strength: float) -> np.ndarray:
    """``strength`` parts of ``colour`` over an image ``(..., 3)`` uint8."""
    return (image * (1 - strength) + np.asarray(colour) * strength).round().astype(np.uint8)
