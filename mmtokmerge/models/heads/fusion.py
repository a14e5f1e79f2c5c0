"""Fusion of maps of several scales by a 1x1 convolution, at each scale's own resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmtokmerge.kernels.plain import is_plain


def fuse(
    fusion: nn.Module,
    maps: Sequence[Tensor],
    mode: str = "bilinear",
    align_corners: bool | None = False,
) -> Tensor:
    """What ``fusion``, mmcv's 1x1 ``ConvModule``, makes of the upsampled, concatenated maps.

    By :func:`fuse_scales` where it is plain; what somebody wrapped or hooked is called.

    Args:
        fusion: The module.
        maps: ``(B, C_i, h_i, w_i)``, the first one has the size of the result.
        mode: Interpolation, 'bilinear' or 'nearest'.
        align_corners: As :func:`torch.nn.functional.interpolate` takes it.
    """
    if not (is_plain(fusion, ConvModule) and is_plain(fusion.conv, nn.Conv2d)):
        size = maps[0].shape[2:]
        corners = align_corners if mode == "bilinear" else None
        same = [
            x if x.shape[2:] == size else F.interpolate(x, size, mode=mode, align_corners=corners)
            for x in maps
        ]
        called: Tensor = fusion(torch.cat(same, dim=1))
        return called
    conv = fusion.conv
    out = fuse_scales(maps, conv.weight, conv.bias, mode=mode, align_corners=align_corners)
    if fusion.with_norm:
        out = fusion.norm(out)
    return fusion.activate(out) if fusion.with_activation else out


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
