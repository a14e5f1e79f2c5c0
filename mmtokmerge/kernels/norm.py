"""A layer's norm, by the fastest exact kernel of the device."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mmtokmerge.kernels.gpu.layer_operators import norm_rows
from mmtokmerge.kernels.gpu.switch import use_layer_kernels
from mmtokmerge.kernels.plain import is_plain

MAX_CHANNELS = 1024


def call_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(x)``, on a GPU without gradients by a kernel where it is a plain layer norm.

    Args:
        norm: Any module; a plain :class:`torch.nn.LayerNorm` of the last axis may be replaced.
        x: ``(..., C)``.
    """
    # a compiler writes such kernels itself, and puts what stands around the norm into them
    if x.is_cuda and not torch.compiler.is_compiling() and is_plain(norm, nn.LayerNorm):
        plain = cast(nn.LayerNorm, norm)
        if _is_taken(plain, x) and use_layer_kernels(x):
            return norm_rows(x, plain.weight, plain.bias, plain.eps)
    y: Tensor = norm(x)
    return y


def _is_taken(norm: nn.LayerNorm, x: Tensor) -> bool:
    """Whether the kernel takes it: one contiguous axis, a weight and a bias of the tokens' type."""
    return (
        norm.normalized_shape == x.shape[-1:]
        and x.shape[-1] <= MAX_CHANNELS
        and x.is_contiguous()
        and all(
            each is not None and each.dtype == x.dtype and each.device == x.device
            for each in (norm.weight, norm.bias)
        )
    )
