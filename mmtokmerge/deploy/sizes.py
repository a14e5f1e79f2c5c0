"""Which images an exported file takes: one size, or every batch and size of a range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmtokmerge.checks import whole_number
from mmtokmerge.errors import InputError

SMALLEST, LARGEST, BATCHES = 256, 4096, 64


@dataclass(frozen=True)
class Sizes:
    """Which images a file takes.

    Args:
        static: The example's batch, height and width alone.
        smallest: Least height and width.
        largest: Greatest height and width.
        batches: Greatest batch.
    """

    static: bool = False
    smallest: int = SMALLEST
    largest: int = LARGEST
    batches: int = BATCHES

    def __post_init__(self) -> None:
        for name in ("smallest", "largest", "batches"):
            whole_number(name, getattr(self, name), 1)
        if not self.static and not SMALLEST <= self.smallest < self.largest:
            raise InputError(
                f"sizes from {self.smallest} to {self.largest} cannot be exported: a file for "
                f"several sizes begins at {SMALLEST} pixels or more (take --static below), and "
                "ends above where it begins"
            )

    def dims(self) -> dict[int, Any]:
        """What :func:`torch.export.export` takes: batch, height and width of the first input."""
        if self.static:
            return {}
        low, high = self.smallest, self.largest
        sides = {
            axis: torch.export.Dim(name, min=low, max=high)
            for axis, name in ((2, "height"), (3, "width"))
        }
        if self.batches == 1:
            return sides
        return {0: torch.export.Dim("batch", min=1, max=self.batches), **sides}

    def generic(self, channels: int, dtype: torch.dtype) -> Tensor:
        """A batch of which no side is a number that the network has elsewhere, nor 1."""
        height = min(self.smallest + 33, self.largest)
        width = min(self.smallest + 99, self.largest)
        height -= height == width
        return torch.zeros(min(2, self.batches), channels, height, width, dtype=dtype)

    def check(self, example: Tensor) -> None:
        """Refuse an example that the file would not take.

        Raises:
            InputError: It is none of images, not in fp32, or out of the range.
        """
        if example.dim() != 4 or example.dtype != torch.float32:
            raise InputError(
                f"the example must be images (B, C, H, W) in fp32, got {tuple(example.shape)} in "
                f"{example.dtype}"
            )
        inside = all(self.smallest <= side <= self.largest for side in example.shape[2:])
        if not self.static and not (inside and 1 <= len(example) <= self.batches):
            raise InputError(
                f"the example {tuple(example.shape)} is not of the sizes to export: batches of 1 "
                f"to {self.batches}, {self.smallest} to {self.largest} pixels on a side"
            )

    def examples(self, example: Tensor) -> list[Tensor]:
        """Images to check a file with: the example, and of a range two of other sizes."""
        if self.static:
            return [example]
        generator = torch.Generator().manual_seed(0)
        least, most = self.smallest, min(self.largest, 2 * self.smallest)
        sides = ((1, most, min(most, least + 33)), (3, least, min(most, least + 97)))
        others = [
            torch.randn(batch, example.shape[1], height, width, generator=generator)
            for batch, height, width in sides
            if batch <= self.batches
        ]
        scale = example.float().std() or torch.tensor(1.0)
        return [example, *(other * scale + example.float().mean() for other in others)]
