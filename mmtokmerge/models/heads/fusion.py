"""Fusion of maps of several scales by a 1x1 convolution, at each scale's own resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def fuse_scales(
    maps: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mode: str = "bilinear",
    align_corners: bool | None = False,
) -> Tensor:
    """Upsample, concatenate and convolve 1x1, computed cheaper and without approximation.

    A 1x1 convolution mixes channels, upsampling mixes positions, both linearly, so they commute:
    each scale is convolved with its own columns of the weight at its own resolution, then upsampled
    and summed. The coarser three of SegFormer's scales have 1/4, 1/16 and 1/64 of the positions.

    Args:
        maps: ``(B, C_i, h_i, w_i)``, the first one has the size of the result.
        weight: Of the 1x1 convolution over the concatenation, ``(C_out, sum of C_i, 1, 1)``.
        bias: ``(C_out,)`` or None.
        mode: Interpolation, 'bilinear' or 'nearest'.
        align_corners: As :func:`torch.nn.functional.interpolate` takes it.

    Returns:
        ``(B, C_out, h_0, w_0)``.
    """
    size = maps[0].shape[2:]
    columns = weight.split([x.shape[1] for x in maps], dim=1)
    out = F.conv2d(maps[0], columns[0], bias)
    for x, part in zip(maps[1:], columns[1:]):
        fused = F.conv2d(x, part)
        if fused.shape[2:] != size:
            corners = align_corners if mode == "bilinear" else None
            fused = F.interpolate(fused, size, mode=mode, align_corners=corners)
        out = out + fused
    return out
