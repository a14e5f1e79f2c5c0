"""BEiT's tables of relative position biases, resized from one grid to another."""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.merging.grid import constant_of_grid

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

NUM_CLASS = 3  # rows: class token to patches, patches to class token, class token to itself


def count_rows(grid: tuple[int, int]) -> int:
    """Rows of the table of a grid: one for each relative position, and three."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + NUM_CLASS


def read_table(found: Tensor, grid: tuple[int, int], own: tuple[int, int] | None = None) -> Tensor:
    """Resize a checkpoint's table ``((2H - 1) * (2W - 1) + 3, heads)`` to a model's grid.

    Args:
        found: The table.
        grid: The model's grid.
        own: The checkpoint's grid ``(H, W)``; None where it does not say, for a square one.

    Raises:
        ValueError: If it is not that of such a grid.
    """
    count = max(0, found.shape[0] - NUM_CLASS) if found.dim() == 2 else 0
    side = (math.isqrt(count) + 1) // 2
    own = own if own is not None else (side, side)
    if count == 0 or (2 * own[0] - 1) * (2 * own[1] - 1) != count:
        raise InputError(
            f"relative_position_bias_table of the checkpoint is {tuple(found.shape)}: neither the "
            f"model's grid {grid} nor a square one, with a class token"
        )
    if own == grid:
        return found
    logger.info("relative position biases are resized from %s to %s", own, grid)
    precise = found.to(torch.promote_types(found.dtype, torch.float32))
    maps = resize_table(precise[:-NUM_CLASS], own, grid)
    return torch.cat([maps.flatten(1).t().to(found.dtype), found[-NUM_CLASS:]])


def resize_table(rows: Tensor, grid: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """Turn a table for the grid ``(H, W)`` into one for the grid ``hw``.

    An axis that grows keeps the biases of the outermost and of the nearest distances: between lies
    a cubic spline through distances that grow geometrically, as in mmseg and BEiT. An axis that
    shrinks keeps the distances that it still has.

    Args:
        rows: ``((2H - 1) * (2W - 1), heads)``.
        grid: The grid ``(H, W)``.
        hw: The grid ``(h, w)``.

    Returns:
        ``(heads, 2h - 1, 2w - 1)``.
    """
    maps: Tensor = rows.t().unflatten(1, (2 * grid[0] - 1, 2 * grid[1] - 1))
    for axis, (own, wanted) in enumerate(zip(grid, hw), 1):
        if own > wanted:
            maps = maps.narrow(axis, own - wanted, 2 * wanted - 1)
        elif own < wanted:
            matrix = _growing_on(own, wanted, maps.device, maps.dtype)
            maps = torch.tensordot(maps, matrix, ([axis], [1])).movedim(-1, axis)
    return maps


@constant_of_grid
def _growing_on(own: int, wanted: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """:func:`growing` where the biases lie: brought there once, not by each layer."""
    return torch.from_numpy(growing(own, wanted)).to(device, dtype)


@lru_cache(maxsize=16)
def growing(own: int, wanted: int) -> np.ndarray[Any, Any]:
    """What resizes an axis of ``own`` patches to more: ``(2 * wanted - 1, 2 * own - 1)``."""
    import numpy as np  # scipy's splines are on its arrays, and a grid of its own needs neither
    from scipy.interpolate import make_interp_spline

    ratio, steps = _ratio(own - 1, wanted - 1), np.arange(own - 1)
    distances = np.cumsum(ratio**steps)
    known = np.concatenate([-distances[::-1], [0.0], distances])
    asked = np.arange(1 - wanted, wanted, dtype=float).clip(known[0], known[-1])
    values = np.eye(len(known))
    if len(known) == 1:
        return np.ones((len(asked), 1))
    found: np.ndarray[Any, Any] = make_interp_spline(known, values, k=min(3, len(known) - 1))(asked)
    return found


def _ratio(steps: int, distance: int) -> float:
    """The ratio, 1.01 to 1.5, with which ``steps`` growing steps from 1 up reach a distance."""
    low, high = 1.01, 1.5
    middle = high
    while high - low > 1e-6:
        middle = (low + high) / 2
        if (1 - middle**steps) / (1 - middle) > distance:
            high = middle
        else:
            low = middle
    return middle
