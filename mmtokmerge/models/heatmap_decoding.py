"""Heatmaps to keypoints in the graph, as mmpose's ``MSRAHeatmap`` codec decodes them in numpy."""

from __future__ import annotations

from typing import Any

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtokmerge.errors import InputError

SMALLEST = 1e-10
"""What mmpose bounds a blurred heatmap by, before it takes the logarithm."""


REACH = 3
"""Cells around a heatmap that may be asked for: two from the place of none, which is -1."""


class HeatmapDecoding(nn.Module):
    """Keypoints in pixels of the network's image, and their scores.

    The maximum of each heatmap, moved a quarter of a cell towards the larger neighbour, or with
    ``unbiased`` to the top of a Gaussian fitted to the blurred heatmap (DARK, arXiv:1910.06278).

    Args:
        codec: An ``MSRAHeatmap`` of mmpose, the head's decoder.

    Raises:
        InputError: The codec is another one.
    """

    scale: Tensor
    kernel: Tensor | None

    def __init__(self, codec: Any) -> None:
        super().__init__()
        if type(codec).__name__ != "MSRAHeatmap":
            raise InputError(
                f"--keypoints decodes heatmaps of the codec MSRAHeatmap, the head's decoder is "
                f"{type(codec).__name__}: export the heatmaps"
            )
        self.register_buffer("scale", torch.as_tensor(codec.scale_factor).float())
        kernel = None
        if codec.unbiased:
            line = torch.from_numpy(cv2.getGaussianKernel(codec.blur_kernel_size, 0)).float()
            kernel = line.flatten()
        self.register_buffer("kernel", kernel)

    def forward(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Map heatmaps ``(B, K, h, w)`` to keypoints ``(B, K, 2)``, x and y, and scores ``(B, K)``.

        As in mmpose a heatmap without a positive value gives x and y of -1 cell.
        """
        tops = heatmaps.amax(dim=3)  # of each row
        scores, row = tops.max(dim=2)
        places = row[..., None, None].expand(-1, -1, 1, heatmaps.shape[3])
        in_row = heatmaps.gather(2, places)[:, :, 0]
        found, column = scores > 0, in_row.argmax(dim=2)
        column, row = torch.where(found, column, -1), torch.where(found, row, -1)
        shift = self._quarter(heatmaps, column, row)
        if self.kernel is not None:
            shift = self._fitted(heatmaps, column, row)
        place = torch.stack([column, row], dim=2).to(heatmaps.dtype)
        return (place + shift) * self.scale, scores

    def _quarter(self, maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
        height, width = maps.shape[2:]
        across = (x > 1) & (x < width - 1) & (y > 0) & (y < height)
        along = (y > 1) & (y < height - 1) & (x > 0) & (x < width)
        dx = _at(maps, x + 1, y) - _at(maps, x - 1, y)
        dy = _at(maps, x, y + 1) - _at(maps, x, y - 1)
        zero = torch.zeros_like(dx)
        moved = torch.stack([torch.where(across, dx, zero), torch.where(along, dy, zero)], dim=2)
        return moved.sign() * 0.25

    def _fitted(self, heatmaps: Tensor, x: Tensor, y: Tensor) -> Tensor:
        height, width = heatmaps.shape[2:]
        maps = self._blurred(heatmaps).clamp(min=SMALLEST).log()
        here = _at(maps, x, y)
        dx = 0.5 * (_at(maps, x + 1, y) - _at(maps, x - 1, y))
        dy = 0.5 * (_at(maps, x, y + 1) - _at(maps, x, y - 1))
        dxx = 0.25 * (_at(maps, x + 2, y) - 2 * here + _at(maps, x - 2, y))
        dyy = 0.25 * (_at(maps, x, y + 2) - 2 * here + _at(maps, x, y - 2))
        dxy = 0.25 * (
            _at(maps, x + 1, y + 1)
            - _at(maps, x + 1, y - 1)
            - _at(maps, x - 1, y + 1)
            + _at(maps, x - 1, y - 1)
        )
        determinant = dxx * dyy - dxy * dxy
        inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2) & (determinant != 0)
        divisor = torch.where(inside, determinant, torch.ones_like(determinant))
        moved = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=2)
        return torch.where(inside[..., None], moved / divisor[..., None], torch.zeros_like(moved))

    def _blurred(self, heatmaps: Tensor) -> Tensor:
        """Blurred, each heatmap with the maximum that it had."""
        assert self.kernel is not None
        channels, border = heatmaps.shape[1], len(self.kernel) // 2
        line = self.kernel.expand(channels, 1, -1)
        maps = F.conv2d(heatmaps, line[:, :, None], padding=(0, border), groups=channels)
        maps = F.conv2d(maps, line[:, :, :, None], padding=(border, 0), groups=channels)
        return maps * (heatmaps.amax((2, 3), keepdim=True) / maps.amax((2, 3), keepdim=True))


def _at(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values ``(B, K)`` of maps ``(B, K, h, w)`` at one place each, the nearest on the border."""
    padded = F.pad(maps, (REACH,) * 4, mode="replicate")
    index = (y + REACH) * padded.shape[3] + x + REACH
    return padded.flatten(2).gather(2, index[..., None])[..., 0]
