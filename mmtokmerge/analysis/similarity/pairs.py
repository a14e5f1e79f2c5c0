"""Cosine similarity of tokens of the same class and of different classes (ALGM, figure 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = 255
EPSILON = 1e-12


@dataclass
class PairMeans:
    """Mean cosine of the pairs within a class and of the pairs across classes."""

    same: float = 0.0
    same_count: int = 0
    different: float = 0.0
    different_count: int = 0

    @property
    def intra(self) -> float:
        """Mean over pairs of tokens of one class; nan where there is none."""
        return self.same / self.same_count if self.same_count else math.nan

    @property
    def inter(self) -> float:
        """Mean over pairs of tokens of two classes; nan where there is none."""
        return self.different / self.different_count if self.different_count else math.nan

    def add(self, tokens: Tensor, classes: Tensor, places: Tensor) -> None:
        """Add all pairs of different tokens that stand at one place.

        Args:
            tokens: ``(N, C)`` of one image.
            classes: ``(N,)`` their classes, tokens of class -1 are left out.
            places: ``(N,)`` whole numbers from 0, such as the window of each token; tokens of place
                -1 are left out.
        """
        counted = (classes >= 0) & (places >= 0)
        unit = F.normalize(tokens[counted].double(), dim=-1, eps=EPSILON)
        places, classes = places[counted], classes[counted]
        alike = torch.stack([places, classes], dim=1)
        same, same_count = _pairs(unit, alike)
        everything, count = _pairs(unit, places[:, None])
        self.same += same
        self.same_count += same_count
        self.different += everything - same
        self.different_count += count - same_count


def token_classes(
    labels: Tensor, hw: tuple[int, int], patch: tuple[int, int], majority: bool = False
) -> Tensor:
    """The class of each patch whose pixels are all of one class, or most of them.

    Args:
        labels: ``(H, W)`` of the image that the network saw, 255 is ignored.
        hw: Grid of patches ``(h, w)``; where it exceeds the image, the image was padded at the
            bottom and at the right.
        patch: Height and width of a patch in pixels.
        majority: Take the class of more than half of the pixels; else all must be of one class.

    Returns:
        ``(h * w,)`` int64 in raster order; -1 where no class has that many pixels. Pixels that are
        ignored or outside the image are of no class.
    """
    height, width = (cells * size for cells, size in zip(hw, patch))
    pad = (0, width - labels.shape[1], 0, height - labels.shape[0])
    labels = F.pad(labels.long(), pad, value=IGNORED)
    cells = labels.reshape(hw[0], patch[0], hw[1], patch[1]).transpose(1, 2).flatten(2)
    common = cells.mode(-1).values  # (h, w)
    share = (cells == common[..., None]).double().mean(-1)
    enough = share > 0.5 if majority else share == 1
    return torch.where(enough & (common != IGNORED), common, -1).flatten()


def window_of(hw: tuple[int, int], size: int, device: torch.device | str = "cpu") -> Tensor:
    """``(h * w,)`` which full ``size`` x ``size`` window a token stands in, -1 outside of them."""
    rows, columns = (side // size for side in hw)
    y = torch.arange(hw[0], device=device)[:, None] // size
    x = torch.arange(hw[1], device=device)[None] // size
    return torch.where((y < rows) & (x < columns), y * columns + x, -1).flatten()


def resize_labels(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """``(H, W)`` labels at another size, each pixel that of the nearest."""
    resized = F.interpolate(labels[None, None].float(), tuple(shape), mode="nearest-exact")
    return resized[0, 0].long()


def _pairs(unit: Tensor, keys: Tensor) -> tuple[float, int]:
    """Sum of cosines and number of pairs of rows ``(N, C)`` whose ``keys (N, K)`` are equal."""
    if not len(unit):
        return 0.0, 0
    _, group, sizes = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    sums = unit.new_zeros(len(sizes), unit.shape[1]).index_add_(0, group, unit)
    twice = sums.square().sum() - unit.square().sum()
    return float(twice) / 2, int((sizes * (sizes - 1)).sum()) // 2
