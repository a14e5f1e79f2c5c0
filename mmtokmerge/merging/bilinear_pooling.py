"""Cells whose means are interpolated, not copied, when they are unmerged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.grid import cells, clip
from mmtokmerge.merging.neighbour_pooling import CellAssignment


@dataclass(frozen=True, eq=False)
class BilinearCells(CellAssignment):
    """Neighbour pooling whose unmerging is bilinear interpolation between the cells' centres.

    Weights sum to 1, so that a linear layer acts on the cells as it would on the tokens. A smaller
    cell at the right or bottom edge counts as a full one that sticks out of the grid.
    """

    @property
    def copies(self) -> bool:
        return False

    def unmerge(self, y: Tensor) -> Tensor:
        batch, _, channels = self._check(y, self.num_groups, "unmerge")
        (h, w), (ky, kx) = self.hw, self.kernel
        rows, columns = -(-h // ky), -(-w // kx)
        grid = y.reshape(batch, rows, columns, channels).permute(0, 3, 1, 2)  # channels last
        full = F.interpolate(grid, (rows * ky, columns * kx), mode="bilinear", align_corners=False)
        return full[:, :, :h, :w].permute(0, 2, 3, 1).reshape(batch, h * w, channels)


def bilinear_pooling(
    hw: tuple[int, int],
    *,
    kernel: tuple[int, int],
    device: torch.device,
) -> TokenAssignment:
    """Group as :func:`mmtokmerge.merging.neighbour_pooling` does; unmerging interpolates."""
    clipped = clip(kernel, hw)
    groups, sizes = cells(hw, clipped, device)
    return BilinearCells(groups, sizes, hw, clipped)
