# mypy: ignore-errors
# Triton's kernel language looks like Python, but its values have no types that mypy knows.
"""A 3x3 depthwise convolution of tokens with its bias and GELU, in one pass over memory.

torch's takes three: cuDNN's convolution knows no bias in this layout, and the activation follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """What one program computes.

    Args:
        rows: Rows of the grid, one after the other.
        columns: Columns of the grid.
        channels: Channels.
        warps: Warps of the program.
    """

    rows: int
    columns: int
    channels: int
    warps: int


def tile_for(channels: int) -> Tile:
    """The tile for so many channels."""
    return Tile(16, 16, min(64, max(16, triton.next_power_of_2(channels))), 8)


def launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, hw: tuple[int, int], gelu: bool
) -> Tensor:
    """Run the kernel.

    Args:
        x: Contiguous tokens ``(B, h*w, C)``, fewer than 2^31 numbers an image.
        weight: ``(C, 1, 3, 3)``, contiguous.
        bias: ``(C,)`` or None.
        hw: The grid, padded with zeros.
        gelu: Whether the exact GELU follows.
    """
    batch, _, channels = x.shape
    y = torch.empty_like(x)
    if y.numel() == 0:
        return y
    tile = tile_for(channels)
    spots = triton.cdiv(hw[0], tile.rows) * triton.cdiv(hw[1], tile.columns)
    depthwise_kernel[(spots, triton.cdiv(channels, tile.channels), batch)](
        x,
        weight,
        bias,
        y,
        hw[0],
        hw[1],
        channels,
        GELU=gelu,
        ROWS=tile.rows,
        BLOCK_X=tile.columns,
        BLOCK_C=tile.channels,
        num_warps=tile.warps,
    )
    return y


@triton.jit
def depthwise_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    height,
    width,
    num_channels,
    GELU: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Down a strip of the map: a row that is read goes into the three sums that it reaches."""
    across = tl.cdiv(width, BLOCK_X)
    top = tl.program_id(0) // across * ROWS
    column = tl.program_id(0) % across * BLOCK_X + tl.arange(0, BLOCK_X)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = channel < num_channels
    image = tl.program_id(2).to(tl.int64) * height * width * num_channels
    place = column[:, None] * num_channels + channel[None, :]
    x_image = x_ptr + image + place
    y_image = y_ptr + image + place
    left = (column > 0)[:, None] & (column <= width)[:, None] & inside_c[None, :]
    middle = (column < width)[:, None] & inside_c[None, :]
    right = (column < width - 1)[:, None] & inside_c[None, :]
    taps = weight_ptr + channel * 9
    nw, n, ne = _tap(taps, inside_c), _tap(taps + 1, inside_c), _tap(taps + 2, inside_c)
    w, centre, e = _tap(taps + 3, inside_c), _tap(taps + 4, inside_c), _tap(taps + 5, inside_c)
    sw, s, se = _tap(taps + 6, inside_c), _tap(taps + 7, inside_c), _tap(taps + 8, inside_c)
    start = tl.zeros((BLOCK_C,), tl.float32)
    if bias_ptr is not None:
        start = tl.load(bias_ptr + channel, inside_c, other=0.0).to(tl.float32)
    empty = tl.broadcast_to(start[None, :], (BLOCK_X, BLOCK_C))
    above = empty  # the sums of the row above the one that is read
    here = empty
    for step in range(ROWS + 2):
        y = top + step - 1
        row = x_image + y * width * num_channels
        exists = (y >= 0) & (y < height)
        behind = tl.load(row - num_channels, left & exists, other=0.0).to(tl.float32)
        under = tl.load(row, middle & exists, other=0.0).to(tl.float32)
        ahead = tl.load(row + num_channels, right & exists, other=0.0).to(tl.float32)
        above += behind * sw
        above += under * s
        above += ahead * se
        here += behind * w
        here += under * centre
        here += ahead * e
        below = empty + behind * nw
        below += under * n
        below += ahead * ne
        if GELU:
            above = _gelu(above)
        out = y_image + (y - 1) * width * num_channels
        written = middle & (step >= 2) & (y <= height)
        tl.store(out, above.to(y_ptr.dtype.element_ty), written)
        above = here
        here = below


@triton.jit
def _tap(pointers, inside):
    """One weight of each channel, ``(1, C)``."""
    return tl.load(pointers, inside, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _gelu(x):
    """``x P(X <= x)`` of a normal X, by Abramowitz and Stegun's 7.1.26, exact to 2e-7 of x."""
    size = tl.abs(x)
    t = 1.0 / (1.0 + size * 0.23164188)  # 0.3275911 over the root of 2
    tail = 0.5307027145 * t - 0.7265760135  # half of their numbers
    tail = tail * t + 0.7107068705
    tail = tail * t - 0.142248368
    tail = (tail * t + 0.127414796) * t * tl.exp2(x * x * -0.72134752)  # half of log2(e)
    near = tl.maximum(x, 0.0) - size * tail
    return tl.where(x > 9.0, x, near)
