"""Facts of a token grid that no image changes, computed once for each grid and device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

import torch
from torch import Tensor

from mmtokmerge.errors import InputError, InputTypeError

T = TypeVar("T")


def pair(value: int | tuple[int, int], name: str) -> tuple[int, int]:
    """Read an int or ``(h, w)`` of ints from 1 up.

    Raises:
        TypeError: If ``value`` is neither.
        ValueError: If a side is below 1.
    """
    sides = (value, value) if isinstance(value, int) else value
    if (
        not isinstance(sides, (tuple, list))
        or len(sides) != 2
        or any(isinstance(side, bool) or not isinstance(side, int) for side in sides)
    ):
        raise InputTypeError(f"{name} must be an int or (h, w), got {value!r}")
    if min(sides) < 1:
        raise InputError(f"{name} must be at least 1 on each side, got {value!r}")
    return sides[0], sides[1]


def clip(stride: tuple[int, int], hw: tuple[int, int]) -> tuple[int, int]:
    """A grid side shorter than the stride takes the side as stride."""
    # A compiler takes a branch where it would carry a min() of a dynamic side through all sizes.
    (sy, sx), (h, w) = stride, hw
    return sy if sy <= h else h, sx if sx <= w else w


def constant_of_grid(make: Callable[..., T]) -> Callable[..., T]:
    """Cache a function of a grid, but never tensors of a tracer or of inference mode.

    The cached tensors are shared by all who ask: nobody may change them in place.
    """

    @lru_cache(maxsize=256)
    def cached(*args: object) -> T:
        with torch.inference_mode(False):
            return make(*args)

    @wraps(make)
    def wrapper(*args: object) -> T:
        if torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor:
            return make(*args)  # a tracer's tensors stay with the tracer
        return cached(*args)

    return wrapper


@constant_of_grid
def destinations(
    hw: tuple[int, int], stride: tuple[int, int], offset: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The tokens at ``offset`` in the full ``stride`` cells of the grid ``hw``.

    Returns:
        ``(D,)`` int64, the places of the destinations in raster order, and ``(N,)``, the number of
        each destination among them, -1 for all other tokens.
    """
    (h, w), (sy, sx), (oy, ox) = hw, stride, offset
    y = torch.arange(h // sy, device=device) * sy + oy
    x = torch.arange(w // sx, device=device) * sx + ox
    places = (y[:, None] * w + x).view(-1)
    numbers = torch.full((h * w,), -1, device=device)
    return places, numbers.index_copy(0, places, torch.arange(places.shape[0], device=device))


@constant_of_grid
def cells(
    hw: tuple[int, int], kernel: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """``(1, N)`` the raster number of each token's ``kernel`` cell, ``(1, M)`` the cells' sizes.

    Cells at the right and bottom edge hold the tokens that are there.
    """
    (h, w), (ky, kx) = hw, kernel
    rows, columns = -(-h // ky), -(-w // kx)
    y = torch.arange(h, device=device) // ky
    x = torch.arange(w, device=device) // kx
    groups = y[:, None] * columns + x[None, :]
    heights = (h - torch.arange(rows, device=device) * ky).clamp(max=ky)
    widths = (w - torch.arange(columns, device=device) * kx).clamp(max=kx)
    return groups.view(1, -1), (heights[:, None] * widths[None, :]).view(1, -1)
