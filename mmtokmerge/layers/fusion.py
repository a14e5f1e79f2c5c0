"""Fusion of maps of several scales by a 1x1 convolution, at each scale's own resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def fuse_scales(
    maps: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mode: str = "bilinear",
    align_corners: bool | None = False,
    size: Sequence[int] | None = None,
) -> Tensor:
    """Upsample, concatenate and convolve 1x1, computed cheaper and without approximation.

    A 1x1 convolution mixes channels, upsampling mixes positions, both linearly, so they commute:
    each scale is convolved with its own columns of the weight at its own resolution, then upsampled
    and summed. The coarser three of SegFormer's scales have 1/4, 1/16 and 1/64 of the positions.

    Args:
        maps: ``(B, C_i, h_i, w_i)``.
        weight: The 1x1 convolution over the concatenation, ``(C_out, sum of C_i, 1, 1)``.
        bias: ``(C_out,)`` or None.
        mode: Interpolation, 'bilinear' or 'nearest'.
        align_corners: As :func:`torch.nn.functional.interpolate` takes it.
        size: The size of the result; the first map's where None.

    Returns:
        ``(B, C_out, *size)``.
    """
    return _sum_scales(
        maps,
        weight.split([x.shape[1] for x in maps], dim=1),
        bias,
        tuple(maps[0].shape[2:] if size is None else size),
        mode,
        align_corners,
    )


def fuse_projected(
    maps: Sequence[Tensor],
    projections: Sequence[tuple[Tensor, Tensor | None]],
    weight: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
) -> Tensor:
    """Project each scale linearly, then :func:`fuse_scales`, bilinear; without approximation.

    A projection and the convolution's columns for it are two products in a row, so each scale takes
    their product, made once for the weights, from its few channels at its own resolution.

    Args:
        maps: ``(B, C_i, h_i, w_i)``.
        projections: Weight ``(D_i, C_i)`` and bias ``(D_i,)`` or None of each scale.
        weight: The 1x1 convolution over the concatenation, ``(C_out, sum of D_i, 1, 1)``.
        bias: ``(C_out,)`` or None.
        size: ``(h, w)`` of the result.
    """
    columns = weight.flatten(1).split([len(own) for own, _ in projections], dim=1)
    products = [
        _product(part, own)[:, :, None, None] for part, (own, _) in zip(columns, projections)
    ]
    for part, (_, shift) in zip(columns, projections):
        if shift is not None:
            gain = _product(part, shift[:, None])[:, 0]
            bias = gain if bias is None else bias + gain
    return _sum_scales(maps, products, bias, tuple(size), "bilinear", False)


def _sum_scales(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor | None,
    size: tuple[int, ...],
    mode: str,
    align_corners: bool | None,
) -> Tensor:
    out: Tensor | None = None
    for x, part in zip(maps, weights):
        whole = _has_size(x, size)
        fused = F.conv2d(x, part, bias if whole else None)
        if whole:
            bias = None  # added once
        else:
            corners = align_corners if mode == "bilinear" else None
            fused = F.interpolate(fused, size, mode=mode, align_corners=corners)
        out = fused if out is None else out + fused
    if out is None:
        raise ValueError("there is no scale to fuse")
    return out if bias is None else out + bias[:, None, None]


def _has_size(x: Tensor, size: tuple[Any, ...]) -> bool:
    """Whether a map has a size; of symbols of :mod:`torch.export` whether they are the same ones.

    Asked whether two symbols are equal, it would make a graph for the sizes where they are not.
    """
    if all(isinstance(side, int) for side in (*x.shape[2:], *size)):
        return tuple(x.shape[2:]) == size
    return all(str(a) == str(b) for a, b in zip(x.shape[2:], size))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``, summed in fp32 at least."""
    precision = torch.promote_types(a.dtype, torch.float32)
    with torch.autocast(a.device.type, enabled=False):
        return (a.to(precision) @ b.to(precision)).to(a.dtype)
