"""mmcv's 1x1 ``ConvModule`` over maps of several scales, at each scale's own resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmtokmerge.kernels.plain import is_plain, is_pointwise
from mmtokmerge.layers.fusion import fuse_scales


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
    if not (is_plain(fusion, ConvModule) and is_pointwise(fusion.conv)):
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
