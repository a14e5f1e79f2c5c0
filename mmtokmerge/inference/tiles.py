"""A picture too large to go through the network whole: overlapping tiles, blended row by row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmtokmerge.errors import InputError

Predict = Callable[[np.ndarray], np.ndarray]


def tile_starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin so that they cover a side and neighbours share at least ``overlap``."""
    if side <= tile:
        return [0]
    step = tile - overlap
    starts = list(range(0, side - tile, step))
    return [*starts, side - tile]


def predict_tiles(
    picture: np.ndarray,
    predict: Predict,
    tile: int,
    overlap: int,
    advance: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The labels of a picture from the scores of its tiles.

    Where tiles overlap their scores are averaged, each weighted by how far from its tile's edge a
    pixel lies. Scores are held for one row of tiles and what overlaps with the next: beside picture
    and labels, the memory grows with the picture's width alone.

    Args:
        picture: ``(H, W, 3)``.
        predict: Maps a tile ``(h, w, 3)`` to scores ``(classes, h, w)``, float.
        tile: Side of a tile in pixels.
        overlap: What neighbours share at least, in pixels.
        advance: Called after each tile.

    Returns:
        The label of each pixel, ``(H, W)`` uint8 or, above 256 classes, uint16.

    Raises:
        InputError: The overlap is not below the tile, or negative.
    """
    if not 0 <= overlap < tile:
        raise InputError(f"--overlap {overlap} must be from 0 to below the tile, {tile}.")
    height, width = picture.shape[:2]
    labels: np.ndarray | None = None
    tops = tile_starts(height, tile, overlap)
    lefts = tile_starts(width, tile, overlap)
    sums: np.ndarray | None = None  # scores (classes, tile, W) from the row `done` on
    done = 0
    for number, top in enumerate(tops):
        bottom = min(top + tile, height)
        for left in lefts:
            part = picture[top:bottom, left : left + tile]
            scores = predict(part)
            if sums is None:
                sums = np.zeros((len(scores), min(tile, height), width), np.float32)
                labels = np.zeros((height, width), np.uint8 if len(scores) <= 256 else np.uint16)
            weights = edge_weights(part.shape[0], part.shape[1])
            rows = slice(top - done, bottom - done)
            sums[:, rows, left : left + part.shape[1]] += scores * weights
            advance()
        following = tops[number + 1] if number + 1 < len(tops) else height
        if sums is not None and labels is not None:
            ready = following - done
            labels[done:following] = sums[:, :ready].argmax(0)
            for plane in sums:  # one by one: numpy copies what overlaps
                plane[: len(plane) - ready] = plane[ready:]
                plane[len(plane) - ready :] = 0
        done = following
    if labels is None:
        raise InputError("The picture has no pixels.")
    return labels


def count_tiles(shape: tuple[int, ...], tile: int, overlap: int) -> int:
    """How many tiles a picture ``(H, W, ...)`` has."""
    return len(tile_starts(shape[0], tile, overlap)) * len(tile_starts(shape[1], tile, overlap))


def edge_weights(height: int, width: int) -> np.ndarray:
    """``(h, w)`` weights that fall from 1 in a tile's middle to little at its edges."""

    def ramp(side: int) -> np.ndarray:
        distance = np.minimum(np.arange(side) + 1, side - np.arange(side))
        return (distance / distance.max()).astype(np.float32)

    return np.outer(ramp(height), ramp(width))
