"""Drawing a token assignment: groups in the mean colour of their pixels, lines between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import binary_erosion, label

from mmtokmerge.visualization.merged import MergedTokens

RIMS = ((230, 60, 200), (255, 170, 0), (0, 200, 255), (120, 230, 60))
"""Colours of groups that lie in several places, which photographs seldom have."""
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
        ``(H', W', 3)`` uint8; of the groups that lie in several places the most scattered ones have
        a rim, each in a colour of its own.
    """
    image = resize_nearest(image, size or image.shape[:2])
    groups = tokens.groups(index).cpu().numpy()

    def draw(part: np.ndarray) -> np.ndarray:
        return rim_scattered(draw_groups(part, groups, tokens.hw), groups, tokens.hw)

    return draw_covered(image, tokens.covered, draw)


def scattered_groups(groups: np.ndarray, hw: tuple[int, int], most: int) -> list[int]:
    """The groups that lie in the most places, from the most on; those in one place are none.

    Args:
        groups: ``(h*w,)`` integers from 0.
        hw: The grid ``(h, w)``.
        most: How many, at most.
    """
    grid = np.asarray(groups).reshape(hw)
    places = {}
    for group, count in zip(*np.unique(grid, return_counts=True)):
        if count > 1:
            places[int(group)] = int(label(grid == group)[1])
    ranked = sorted(places, key=lambda group: (-places[group], group))
    return [group for group in ranked if places[group] > 1][:most]


def rim_scattered(
    picture: np.ndarray, groups: np.ndarray, hw: tuple[int, int], most: int = 4
) -> np.ndarray:
    """Give the most scattered groups a rim, so that one that lies apart is seen to be one.

    Args:
        picture: ``(H, W, 3)`` uint8, of :func:`draw_groups`.
        groups: ``(h*w,)`` integers from 0.
        hw: The grid ``(h, w)``.
        most: How many groups, at most as many as there are colours.
    """
    drawn = picture.copy()
    labels = resize_nearest(np.asarray(groups).reshape(hw), picture.shape[:2])
    cell = min(side / cells for side, cells in zip(picture.shape[:2], hw))
    width = max(1, round(cell / 8))
    for colour, group in zip(RIMS, scattered_groups(groups, hw, most)):
        own = labels == group
        drawn[own & ~binary_erosion(own, iterations=width, border_value=0)] = colour
    return drawn


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
