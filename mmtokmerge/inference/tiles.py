"""A picture too large to go through the network whole: overlapping tiles, blended as they come."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from mmtokmerge.errors import InputError

Predict = Callable[[np.ndarray], np.ndarray]
Read = Callable[[slice, slice], np.ndarray]
IN_MEMORY = 2**27
"""Bytes of scores that are carried from one row of tiles to the next before a file holds them."""


class Region(NamedTuple):
    """A part of a picture whose labels are final.

    Args:
        rows: The rows of the picture.
        columns: The columns of the picture.
        pixels: ``(h, w, 3)`` what was read there.
        labels: ``(h, w)`` integers, the class of each pixel.
    """

    rows: slice
    columns: slice
    pixels: np.ndarray
    labels: np.ndarray


def tile_starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin, evenly, so that they cover a side and neighbours share ``overlap``."""
    if side <= tile:
        return [0]
    count = -(-(side - overlap) // (tile - overlap))
    return [round(number * (side - tile) / (count - 1)) for number in range(count)]


def predict_regions(
    shape: tuple[int, int],
    read: Read,
    predict: Predict,
    tile: int,
    overlap: int,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Region]:
    """The labels of a picture from the scores of its tiles, part by part, each pixel once.

    Where tiles overlap their scores are averaged, each weighted by how far from its tile's edge a
    pixel lies. Scores are held of one tile, of what it shares with the next, and of the rows that a
    row of tiles shares with the next; of a very wide picture those lie in a temporary file. So the
    memory does not grow with the picture.

    Args:
        shape: Height and width of the picture.
        read: Gives rows and columns of it, ``(h, w, 3)``.
        predict: Maps a tile ``(h, w, 3)`` to scores ``(classes, h, w)``, float.
        tile: Side of a tile in pixels.
        overlap: What neighbours share at least, in pixels.
        advance: Called after each tile.

    Yields:
        Regions from left to right, then downwards.

    Raises:
        InputError: The overlap is not below the tile, or negative, or there are no pixels.
    """
    if not 0 <= overlap < tile:
        raise InputError(f"--overlap {overlap} must be from 0 to below the tile, {tile}.")
    height, width = shape
    if not height or not width:
        raise InputError("The picture has no pixels.")
    tops, lefts = (tile_starts(side, tile, overlap) for side in shape)
    shared = max((top + tile - after for top, after in itertools.pairwise(tops)), default=0)
    above: np.ndarray | None = None  # (classes, shared, W) scores of the tiles above
    num_above = 0
    for top, next_top in itertools.pairwise([*tops, height]):
        bottom = min(top + tile, height)
        before: np.ndarray | None = None  # (classes, h, shared) scores of the tiles to the left
        for left, next_left in itertools.pairwise([*lefts, width]):
            pixels = read(slice(top, bottom), slice(left, min(left + tile, width)))
            scores = predict(pixels) * edge_weights(*pixels.shape[:2])
            if above is None:
                above = _room((len(scores), shared, width))
            if before is not None:
                scores[..., : before.shape[2]] += before
            final = scores[..., : next_left - left]
            final[:, :num_above] += above[:, :num_above, left:next_left]
            labels = final[:, : next_top - top].argmax(0)
            above[:, : bottom - next_top, left:next_left] = final[:, next_top - top :]
            before = scores[..., next_left - left :].copy()
            pixels = pixels[: next_top - top, : next_left - left]
            yield Region(slice(top, next_top), slice(left, next_left), pixels, labels)
            advance()
        num_above = bottom - next_top


def predict_tiles(
    picture: np.ndarray,
    predict: Predict,
    tile: int,
    overlap: int,
    advance: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """All labels of a picture ``(H, W, 3)``, from the regions of :func:`predict_regions`.

    Returns:
        The label of each pixel, ``(H, W)`` uint8 or, above 256 classes, uint16.
    """

    def read(rows: slice, columns: slice) -> np.ndarray:
        return picture[rows, columns]

    num_classes = 0

    def counted(part: np.ndarray) -> np.ndarray:
        nonlocal num_classes
        scores = predict(part)
        num_classes = len(scores)
        return scores

    found: np.ndarray | None = None
    height, width = picture.shape[:2]
    for region in predict_regions((height, width), read, counted, tile, overlap, advance):
        if found is None:
            found = np.empty((height, width), np.uint8 if num_classes <= 256 else np.uint16)
        found[region.rows, region.columns] = region.labels
    assert found is not None, "a picture of pixels has regions"
    return found


def _room(shape: tuple[int, ...]) -> np.ndarray:
    """Float32 room of a shape, in a temporary file where it would take too much memory."""
    if 4 * int(np.prod(shape)) <= IN_MEMORY:
        return np.empty(shape, np.float32)
    return np.memmap(tempfile.TemporaryFile(), np.float32, "w+", shape=shape)


def count_tiles(shape: tuple[int, ...], tile: int, overlap: int) -> int:
    """How many tiles a picture ``(H, W, ...)`` has."""
    return len(tile_starts(shape[0], tile, overlap)) * len(tile_starts(shape[1], tile, overlap))


def edge_weights(height: int, width: int) -> np.ndarray:
    """``(h, w)`` weights that fall from 1 in a tile's middle to little at its edges."""

    def ramp(side: int) -> np.ndarray:
        distance = np.minimum(np.arange(side) + 1, side - np.arange(side))
        return (distance / distance.max()).astype(np.float32)

    return np.outer(ramp(height), ramp(width))
