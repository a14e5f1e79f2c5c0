# mypy: ignore-errors
# Triton's kernel language looks like Python, but its values have no types that mypy knows.
"""A kernel that finds each token's most similar destination without writing the scores to memory.

A first kernel takes the lengths of the destinations, one number each. Then each program keeps a
block of tokens and walks over the destinations; in registers it holds the best score and the tile
of destinations that gave it, one for each token and column of the tile, so that the comparison over
the columns happens once, at the end.

A walk that also took the lengths lost some of the best destinations on an H200 (Triton 3.6, fp16,
20 of 16,384 tokens): one tile was summed from shared memory and multiplied from it at once. So what
the walk loads is multiplied, and nothing else is done with it.

``TRITON_INTERPRET=1``, set before the first import, runs it on CPU tensors.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

# Programs that keep a large GPU busy; with fewer, each one takes fewer tokens.
ENOUGH_PROGRAMS = 128
MAX_WHOLE_CHANNELS = 128
LENGTHS = 16  # destinations of a program that takes their lengths
TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True)
class Blocks:
    """How one program of the kernel is cut.

    Args:
        tokens: Tokens of a program.
        targets: Destinations of a tile.
        channels: Channels of a tile, a power of two.
        whole: Whether one tile holds all channels; the tokens are then read once.
        warps: Warps of a program.
        stages: Tiles in flight.
    """

    tokens: int
    targets: int
    channels: int
    whole: bool
    warps: int
    stages: int


def blocks_for(batch: int, tokens: int, channels: int, dtype: torch.dtype) -> Blocks:
    """The blocks for ``x (batch, tokens, channels)`` compared in ``dtype``."""
    single = dtype == torch.float32
    whole = channels <= (MAX_WHOLE_CHANNELS // 2 if single else MAX_WHOLE_CHANNELS)
    wide = max(16, triton.next_power_of_2(channels)) if whole else (32 if single else 64)
    rows = 128
    while rows > 16 and batch * triton.cdiv(tokens, rows) < ENOUGH_PROGRAMS:
        rows //= 2
    return Blocks(rows, 32 if single else 64, wide, whole, warps=8 if rows == 128 else 4, stages=3)


@dataclass(frozen=True)
class Grid:
    """Destinations that are tokens of a grid, one in each full cell.

    Args:
        hw: The grid ``(h, w)``.
        cell: ``(sy, sx)`` in tokens.
        offset: Place ``(oy, ox)`` of the destination in its cell.
    """

    hw: tuple[int, int]
    cell: tuple[int, int]
    offset: tuple[int, int]

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of full cells."""
        return self.hw[0] // self.cell[0], self.hw[1] // self.cell[1]


def launch(
    x: Tensor,
    destinations: Tensor | Grid,
    absent: Tensor | None,
    dtype: torch.dtype,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Run the kernel.

    Args:
        x: Tokens ``(B, N, C)`` of any strides.
        destinations: ``(B, D, C)`` of any strides, D at least 1; or which of the tokens they are.
        absent: ``(B, D)`` bool, or None.
        dtype: What tokens and destinations are multiplied in; sums are fp32.
        epsilon: The least length that is divided by.

    Returns:
        The cosine ``(B, N)`` in fp32 and the index ``(B, N)``, int64; a token of a grid that is a
        destination has infinity and its own number.
    """
    batch, tokens, channels = x.shape
    similarity = torch.empty(batch, tokens, dtype=torch.float32, device=x.device)
    index = torch.empty(batch, tokens, dtype=torch.int64, device=x.device)
    if similarity.numel() == 0:
        return similarity, index
    on_grid = isinstance(destinations, Grid)
    if on_grid:
        rows, columns = destinations.cells
        targets, count = x, rows * columns
        numbers = (destinations.hw[1], rows, columns, *destinations.cell, *destinations.offset)
    else:
        targets, count, numbers = destinations, destinations.shape[1], (1,) * 7
    cut = blocks_for(batch, tokens, channels, dtype)
    missing = None if absent is None else absent.contiguous().view(torch.uint8)
    lengths = torch.empty(batch, count, dtype=torch.float32, device=x.device)
    length_kernel[(triton.cdiv(count, LENGTHS), batch)](
        targets,
        lengths,
        count,
        channels,
        *targets.stride(),
        epsilon,
        *numbers,
        ON_GRID=on_grid,
        BLOCK_D=LENGTHS,
        BLOCK_C=min(256, max(16, triton.next_power_of_2(channels))),
        num_warps=4,
    )
    best_kernel[(triton.cdiv(tokens, cut.tokens), batch)](
        x,
        targets,
        lengths,
        missing,
        similarity,
        index,
        tokens,
        count,
        channels,
        *x.stride(),
        *targets.stride(),
        epsilon,
        *numbers,
        ON_GRID=on_grid,
        DTYPE=TYPES[dtype],
        WHOLE=cut.whole,
        EVEN=channels % cut.channels == 0,
        PRECISION=precision_of(x.device, dtype),
        UPCAST=INTERPRETED,
        BLOCK_N=cut.tokens,
        BLOCK_D=cut.targets,
        BLOCK_C=cut.channels,
        num_warps=cut.warps,
        num_stages=cut.stages,
    )
    return similarity, index


EXACT: ContextVar[bool] = ContextVar("exact products", default=False)
"""Whether TF32 is left out whatever torch may: the check at first use compares with fp64."""


def precision_of(device: torch.device, dtype: torch.dtype, exact: bool = False) -> str:
    """How fp32 products are taken: in TF32 where torch may, else in three TF32 parts.

    The three parts keep about fp32's precision on tensor cores, and are taken if ``exact``; cards
    older than Ampere have none for it.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return "ieee"
    if exact or EXACT.get() or dtype != torch.float32:
        return "tf32x3"
    matmul = torch.backends.cuda.matmul
    # torch from 2.9 on has a word for it, and refuses the older setting where the word was used
    word = getattr(matmul, "fp32_precision", None)
    allowed = matmul.allow_tf32 if word is None else word == "tf32"
    return "tf32" if allowed else "tf32x3"


@triton.jit
def length_kernel(
    target_ptr,
    length_ptr,
    num_targets,
    num_channels,
    stride_b,
    stride_d,
    stride_c,
    epsilon,
    width,
    rows,
    columns,
    cell_y,
    cell_x,
    offset_y,
    offset_x,
    ON_GRID: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Lengths ``(B, D)`` of the targets ``(B, D, C)``, at least ``epsilon``."""
    batch = tl.program_id(1).to(tl.int64)
    target = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    place = tl.minimum(target, num_targets - 1)
    if ON_GRID:
        place = _on_grid(place, width, columns, cell_y, cell_x, offset_y, offset_x)
    starts = target_ptr + batch * stride_b + place.to(tl.int64)[:, None] * stride_d
    squares = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, num_channels, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        inside = (channel < num_channels)[None, :]
        part = tl.load(starts + channel[None, :] * stride_c, inside, other=0.0).to(tl.float32)
        squares += tl.sum(part * part, axis=1)
    length = tl.maximum(tl.sqrt_rn(squares), epsilon, propagate_nan=tl.PropagateNan.ALL)
    tl.store(length_ptr + batch * num_targets + target, length, target < num_targets)


@triton.jit
def _on_grid(target, width, columns, cell_y, cell_x, offset_y, offset_x):
    """The token that is a destination, from its number."""
    row = target // columns * cell_y + offset_y
    return row * width + target % columns * cell_x + offset_x


@triton.jit
def best_kernel(
    x_ptr,
    target_ptr,
    length_ptr,
    absent_ptr,
    similarity_ptr,
    index_ptr,
    num_tokens,
    num_targets,
    num_channels,
    stride_b,
    stride_n,
    stride_c,
    target_stride_b,
    target_stride_d,
    target_stride_c,
    epsilon,
    width,
    rows,
    columns,
    cell_y,
    cell_x,
    offset_y,
    offset_x,
    ON_GRID: tl.constexpr,
    DTYPE: tl.constexpr,
    WHOLE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Cosine and index of the best target ``(B, D, C)`` of each token ``(B, N, C)``.

    Rows and columns past the end repeat the last one: the first of equal scores wins, so a
    repeated target changes nothing. On a grid the targets are tokens, found by arithmetic.
    """
    batch = tl.program_id(1).to(tl.int64)
    own = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.minimum(own, num_tokens - 1).to(tl.int64)
    x_rows = x_ptr + batch * stride_b + row[:, None] * stride_n  # (BLOCK_N, 1)
    targets = target_ptr + batch * target_stride_b
    channel = tl.arange(0, BLOCK_C)
    column = tl.arange(0, BLOCK_D)

    squares = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, num_channels, BLOCK_C):
        values = _load(x_rows + (start + channel)[None, :] * stride_c, start, num_channels, EVEN, 1)
        squares += tl.sum(values.to(tl.float32) * values.to(tl.float32), axis=1)
    if WHOLE:
        tokens = _load(x_rows + channel[None, :] * stride_c, 0, num_channels, EVEN, 1).to(DTYPE)

    best = tl.full((BLOCK_N, BLOCK_D), float("-inf"), tl.float32)
    tile = tl.zeros((BLOCK_N, BLOCK_D), tl.int32)
    for first in range(0, num_targets, BLOCK_D):
        target = tl.minimum(first + column, num_targets - 1)
        place = target
        if ON_GRID:
            place = _on_grid(target, width, columns, cell_y, cell_x, offset_y, offset_x)
        starts = targets + place.to(tl.int64)[None, :] * target_stride_d  # (1, BLOCK_D)
        scores = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        if WHOLE:
            part = _load(starts + channel[:, None] * target_stride_c, 0, num_channels, EVEN, 0)
            scores = dot(tokens, part.to(DTYPE), scores, PRECISION, UPCAST)
        else:
            for start in range(0, num_channels, BLOCK_C):
                down = (start + channel)[:, None] * target_stride_c
                part = _load(starts + down, start, num_channels, EVEN, 0)
                along = (start + channel)[None, :] * stride_c
                left = _load(x_rows + along, start, num_channels, EVEN, 1).to(DTYPE)
                scores = dot(left, part.to(DTYPE), scores, PRECISION, UPCAST)
        scores = scores / tl.load(length_ptr + batch * num_targets + target)[None, :]
        if absent_ptr is not None:
            absent = tl.load(absent_ptr + batch * num_targets + target)
            scores = tl.where((absent != 0)[None, :], float("-inf"), scores)
        better = scores > best
        best = tl.where(better, scores, best)
        tile = tl.where(better, first, tile)

    score = tl.max(best, axis=1)
    index = tl.minimum(tile + column[None, :], num_targets - 1)
    index = tl.min(tl.where(best == score[:, None], index, num_targets - 1), axis=1)
    length = tl.maximum(tl.sqrt_rn(squares), epsilon, propagate_nan=tl.PropagateNan.ALL)
    cosine = tl.div_rn(score, length)
    cosine = tl.minimum(cosine, 1.0, propagate_nan=tl.PropagateNan.ALL)
    if ON_GRID:
        y, x = own // width, own % width
        is_target = (y % cell_y == offset_y) & (x % cell_x == offset_x)
        is_target &= (y // cell_y < rows) & (x // cell_x < columns)
        cosine = tl.where(is_target, float("inf"), cosine)
        index = tl.where(is_target, y // cell_y * columns + x // cell_x, index)
    out = batch * num_tokens + own
    tl.store(similarity_ptr + out, cosine, own < num_tokens)
    tl.store(index_ptr + out, index.to(tl.int64), own < num_tokens)


@triton.jit
def dot(left, right, scores, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """``scores + left @ right`` in fp32; the interpreter multiplies bf16 only as fp32."""
    if UPCAST:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, scores, input_precision=PRECISION)


@triton.jit
def _load(pointers, start, num_channels, EVEN: tl.constexpr, AXIS: tl.constexpr):
    """A tile whose axis ``AXIS`` are channels from ``start`` on; those past the end are 0."""
    if EVEN:
        return tl.load(pointers)
    inside = start + tl.arange(0, pointers.shape[AXIS]) < num_channels
    return tl.load(pointers, mask=tl.expand_dims(inside, 1 - AXIS), other=0.0)


INTERPRETED = not isinstance(best_kernel, triton.JITFunction)
