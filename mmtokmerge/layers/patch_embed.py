"""Overlapping patch embedding."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from mmtokmerge.kernels.norm import call_norm
from mmtokmerge.layers.layout import to_tokens


class OverlapPatchEmbed(nn.Module):
    """Strided convolution and norm, with the parameters of mmseg's ``PatchEmbed``.

    Args:
        in_channels: Channels of the input map.
        embed_dims: Channels C of the tokens.
        kernel_size: Side of a patch in pixels of the input map, odd.
        stride: Step between patches.
        norm_layer: Makes the norm from its channels.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        kernel_size: int,
        stride: int,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.projection = nn.Conv2d(
            in_channels, embed_dims, kernel_size, stride, padding=kernel_size // 2
        )
        self.norm = norm_layer(embed_dims)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed a channels-last map ``(B, C_in, H, W)``; returns ``(B, h*w, C)`` and ``(h, w)``."""
        x = self.projection(x)
        return call_norm(self.norm, to_tokens(x)), (x.shape[2], x.shape[3])
