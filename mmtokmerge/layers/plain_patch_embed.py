"""The patch embedding of a plain ViT: patches side by side, and superpatches of 2x2 (CTS)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Non-overlapping patches, padded at the right and bottom where the patch does not divide."""

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        bias: bool = True,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size, bias=bias)
        self.norm = norm

    def pad(self, x: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` with sides rounded up to whole patches."""
        short = [-side % self.patch_size for side in x.shape[2:]]
        return F.pad(x, (0, short[1], 0, short[0])) if any(short) else x

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images ``(B, 3, H, W)`` to tokens ``(B, h*w, C)`` and the grid, sides rounded up."""
        x = self.projection(self.pad(x))
        hw = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        return (x if self.norm is None else self.norm(x)), hw

    def superpatches(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """The whole 2x2 patches of images of ``hw`` patches as one token each.

        Bilinear x0.5, which is the mean of 2x2 pixels, then the patches' own projection (CTS,
        section 3.2): ``(B, 3, H, W)`` to ``(B, (h // 2) * (w // 2), C)``.
        """
        h, w = (side // 2 * 2 * self.patch_size for side in hw)
        tokens: Tensor = self(F.avg_pool2d(self.pad(x)[:, :, :h, :w], 2))[0]
        return tokens
