"""Facts of a token grid that no image changes, computed once for each grid and device."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmtokmerge.errors import InputError, InputTypeError

T = TypeVar("T")
INTEGERS = (int, torch.SymInt)  # torch.export carries sizes as symbols


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
        or any(isinstance(side, bool) or not isinstance(side, INTEGERS) for side in sides)
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


def share_of(tokens: Any, rate: float) -> Any:
    """``int(tokens * rate)``, also of a symbol of :mod:`torch.export`, which a float would fix.

    There the rate is the fraction that its decimals say, so that the exported file counts in whole
    numbers. :func:`same_share` says where the two agree.
    """
    if isinstance(tokens, int):
        return int(tokens * rate)
    exact = Fraction(repr(float(rate)))
    return tokens * exact.numerator // exact.denominator


def same_share(rate: float, most: int) -> bool:
    """Whether :func:`share_of` is the same in floats and in whole numbers up to ``most`` tokens."""
    exact = Fraction(repr(float(rate)))
    tokens = torch.arange(most + 1)
    floats = (tokens.double() * rate).long()
    return torch.equal(floats, tokens * exact.numerator // exact.denominator)


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
        if torch.compiler.is_compiling():
            return make(*args)  # a tracer's tensors stay with the tracer
        probe = torch.empty(0)
        if type(probe) is not Tensor:
            return _of_tracer(probe, make, args)
        return cached(*args)

    return wrapper


def _of_tracer(probe: Tensor, make: Callable[..., T], args: tuple[object, ...]) -> T:
    """A constant that stays with the mode that makes tensors without memory, where nothing records.

    What counts or sizes a forward under such a mode then finds its constants as a device does.
    """
    from torch.fx.experimental.proxy_tensor import get_proxy_mode  # brings numpy along

    mode = getattr(probe, "fake_mode", None)
    if mode is None or get_proxy_mode() is not None:
        return make(*args)
    kept: dict[Any, T] = mode.__dict__.setdefault("mmtokmerge_constants", {})
    key = (make, *args)
    if key not in kept:
        kept[key] = make(*args)
    return kept[key]


@constant_of_grid
def destinations(
    hw: tuple[int, int], stride: tuple[int, int], offset: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens at ``offset`` in the full ``stride`` cells of the grid ``hw``.

    Returns:
        ``(D,)`` int64, the places of the destinations in raster order; ``(N,)``, the number of
        each destination among them, -1 for all other tokens; and ``(N,)`` bool, which these are.
    """
    (h, w), (sy, sx), (oy, ox) = hw, stride, offset
    rows, columns = h // sy, w // sx
    y, x = _places(rows * columns, columns, device)
    places = (y * sy + oy) * w + x * sx + ox
    numbers = torch.full((h * w,), -1, device=device)
    own = numbers.index_copy(0, places, torch.arange(places.shape[0], device=device))
    return places, own, own < 0


@constant_of_grid
def cells(
    hw: tuple[int, int], kernel: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """``(1, N)`` the raster number of each token's ``kernel`` cell, ``(1, M)`` the cells' sizes.

    Cells at the right and bottom edge hold the tokens that are there.
    """
    (h, w), (ky, kx) = hw, kernel
    rows, columns = (h - 1) // ky + 1, (w - 1) // kx + 1  # as a pooling counts them
    y, x = _places(h * w, w, device)
    groups = y // ky * columns + x // kx
    y, x = _places(rows * columns, columns, device)
    return groups[None], ((h - y * ky).clamp(max=ky) * (w - x * kx).clamp(max=kx))[None]


def _places(count: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of the first ``count`` cells of a grid of this width, in raster order.

    Without a remainder, which ONNX has none of by a symbol, and without a broadcast of two sides,
    which :mod:`torch.export` asks whether one is 1.
    """
    number = torch.arange(count, device=device)
    row = number // width
    return row, number - row * width
