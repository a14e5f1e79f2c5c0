"""Local matching: a token is compared with the destinations of the cells around it only.

Comparing every token with every destination grows with the square of the tokens; nine comparisons
a token do not. A likely partner is near: Segformer++'s figures show groups of adjacent tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmtokmerge.kernels.similarity import cosine, unit_rows
from mmtokmerge.merging.grid import constant_of_grid

AROUND = 9  # a cell and the eight around it


def most_similar_around(
    x: Tensor, destinations: Tensor, hw: tuple[int, int], stride: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Find each token's most similar destination among its own and the eight neighbouring cells.

    A token outside the full cells has the full cells next to its own, smaller cell. Scores are one
    small matrix product for each cell, ``(B, N, 9)`` in all.

    Args:
        x: Tokens ``(B, N, C)`` of the grid ``hw`` in raster order.
        destinations: ``(B, D, C)``, one for each full ``stride`` cell in raster order.
        hw: The grid ``(h, w)``.
        stride: The cell ``(sy, sx)``, no side longer than the grid's.

    Returns:
        What :func:`mmtokmerge.kernels.similarity.most_similar` returns.
    """
    batch, _, channels = x.shape
    order, place = cellwise(hw, stride, x.device)
    around = cells_around(hw, stride, x.device)  # (K, 9)
    cells, size = around.shape[0], stride[0] * stride[1]
    tokens = x.index_select(1, order).view(batch * cells, size, channels)
    targets = unit_rows(destinations).index_select(1, around.view(-1))
    targets = targets.view(batch * cells, AROUND, channels)
    best = torch.bmm(tokens, targets.transpose(1, 2)).max(dim=-1)  # (B*K, size)
    numbers = around.repeat(batch, 1).gather(1, best.indices).view(batch, cells * size)
    score = best.values.view(batch, cells * size).index_select(1, place)
    return cosine(score, x), numbers.index_select(1, place)


def comparisons_around(hw: tuple[int, int], stride: tuple[int, int]) -> int:
    """How many comparisons :func:`most_similar_around` makes for one image.

    Cells that stick out of the grid are filled up.
    """
    (h, w), (sy, sx) = hw, stride
    return AROUND * (-(-h // sy) * sy) * (-(-w // sx) * sx)


@constant_of_grid
def cellwise(
    hw: tuple[int, int], stride: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The order that lays the tokens of a grid out cell by cell, and each token's place in it.

    Returns:
        ``(K*sy*sx,)`` the token at each place, where cells that stick out repeat the last row and
        column, and ``(N,)`` the place of each token in raster order.
    """
    (h, w), (sy, sx) = hw, stride
    rows, columns = -(-h // sy), -(-w // sx)
    y = torch.arange(rows * sy, device=device).clamp(max=h - 1)
    x = torch.arange(columns * sx, device=device).clamp(max=w - 1)
    order = (y[:, None] * w + x).view(rows, sy, columns, sx).transpose(1, 2)
    y, x = torch.arange(h, device=device), torch.arange(w, device=device)
    cell = (y // sy)[:, None] * columns + x // sx  # (h, w)
    inside = (y % sy)[:, None] * sx + x % sx
    return order.reshape(-1), (cell * (sy * sx) + inside).view(-1)


@constant_of_grid
def cells_around(hw: tuple[int, int], stride: tuple[int, int], device: torch.device) -> Tensor:
    """``(K, 9)`` int64: the destinations around each of the K cells, in raster order.

    At the edge, where there are fewer, some stand twice.
    """
    (h, w), (sy, sx) = hw, stride
    step = torch.arange(-1, 2, device=device)
    y = torch.arange(-(-h // sy), device=device)[:, None] + step  # (rows, 3)
    x = torch.arange(-(-w // sx), device=device)[:, None] + step  # (columns, 3)
    y, x = y.clamp(0, h // sy - 1), x.clamp(0, w // sx - 1)
    return (y[:, None, :, None] * (w // sx) + x[None, :, None, :]).view(-1, AROUND)
