"""Neighbour pooling: the tokens of a cell stand together, whatever they show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.kernels.recording import is_exported
from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.grid import cells, clip, pair

FEW = 16
"""Tokens of a cell up to which a compiled graph adds them slice by slice."""


@dataclass(frozen=True, eq=False)
class CellAssignment(TokenAssignment):
    """Groups that are the cells of a grid: merging is pooling, unmerging is repeating.

    Args:
        hw: The grid ``(h, w)`` of the tokens.
        kernel: The cell ``(ky, kx)`` in tokens; edge cells hold the tokens that are there.
    """

    hw: tuple[int, int]
    kernel: tuple[int, int]

    def merge(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        if sizes is not None:
            return super().merge(x, sizes)
        self._check(x, self.num_tokens, "merge")
        batch, channels = x.shape[0], x.shape[2]
        grid = x.reshape(batch, *self.hw, channels).permute(
            0, 3, 1, 2
        )  # (B, C, h, w), channels last
        compiles = torch.compiler.is_compiling() and not is_exported()
        if compiles and math.prod(self.kernel) <= FEW:
            return self._sum_by_slices(x.reshape(batch, *self.hw, channels))
        if not self._is_fixed():
            # As many zeros as any grid needs, and no pooling, which would ask this grid's sides.
            ky, kx = self.kernel
            ones = x.new_ones(channels, 1, ky, kx)
            padded = F.pad(grid, (0, kx - 1, 0, ky - 1))
            sums = F.conv2d(padded, ones, stride=self.kernel, groups=channels)
            return sums.permute(0, 2, 3, 1).flatten(1, 2) / self.sizes[..., None]
        pooled = F.avg_pool2d(
            grid, self.kernel, self.kernel, ceil_mode=True, count_include_pad=False
        )
        return pooled.permute(0, 2, 3, 1).flatten(1, 2)  # (B, M, C)

    def _sum_by_slices(self, grid: Tensor) -> Tensor:
        """Means ``(B, M, C)`` of a grid ``(B, h, w, C)``, one graph for every size.

        A pooling asks whether the cell divides the grid, which makes a graph for each answer. A
        compiler makes one pass of these slices.
        """
        (h, w), (ky, kx) = self.hw, self.kernel
        rows, columns = (h - 1) // ky + 1, (w - 1) // kx + 1
        precise = grid.to(torch.promote_types(grid.dtype, torch.float32))
        padded = F.pad(precise, (0, 0, 0, kx - 1, 0, ky - 1))
        sums: Any = 0
        for top in range(ky):
            for left in range(kx):
                below, right = top + (rows - 1) * ky + 1, left + (columns - 1) * kx + 1
                sums = sums + padded[:, top:below:ky, left:right:kx]
        means: Tensor = sums.flatten(1, 2) / self.sizes[..., None]
        return means.to(grid.dtype)

    def unmerge(self, y: Tensor) -> Tensor:
        batch, _, channels = self._check(y, self.num_groups, "unmerge")
        (h, w), (ky, kx) = self.hw, self.kernel
        rows, columns = (h - 1) // ky + 1, (w - 1) // kx + 1  # as a pooling counts them
        if torch.compiler.is_compiling() or not self._is_fixed():  # a cut holds for one grid alone
            down, along = (torch.arange(side, device=y.device) for side in (h, w))
            cells = y.reshape(batch, rows, columns, channels)
            return cells.index_select(1, down // ky).index_select(2, along // kx).flatten(1, 2)
        grid = y.reshape(batch, rows, 1, columns, 1, channels)
        full = grid.expand(-1, -1, ky, -1, kx, -1).reshape(batch, rows * ky, columns * kx, channels)
        return full[:, :h, :w].reshape(batch, h * w, channels)

    def _is_fixed(self) -> bool:
        """Whether the grid is numbers, not symbols of :mod:`torch.export`."""
        return all(isinstance(side, int) for side in self.hw)


def neighbour_pooling(
    hw: tuple[int, int],
    *,
    kernel: int | tuple[int, int] = 2,
    device: torch.device | str | None = None,
) -> TokenAssignment:
    """Group the tokens of each ``kernel`` cell of a grid (Segformer++, 2D neighbour merging).

    Neighbours along the raster sequence (1D) are the cells of a grid of one row:
    ``neighbour_pooling((1, h * w), kernel=(1, k))``.

    Args:
        hw: The grid ``(h, w)`` of the tokens.
        kernel: Cell in tokens, an int for both sides or ``(h, w)``. Cells at the right and bottom
            edge are smaller where it does not divide the grid; a side shorter than the kernel is
            one cell.
        device: Where the assignment lives, the default device if None.

    Returns:
        An assignment of batch 1, which stands for any batch.

    Raises:
        TypeError: If the kernel is neither an int nor a pair of ints.
        ValueError: If a side of the grid or of the kernel is below 1.
    """
    h, w = pair(hw, "hw")
    clipped = clip(pair(kernel, "kernel"), (h, w))
    place = torch.device(device) if device is not None else torch.get_default_device()
    groups, sizes = cells((h, w), clipped, place)
    return CellAssignment(groups, sizes, (h, w), clipped)
