"""The depthwise convolution of a MixFFN and what follows it, by the device's fastest kernel."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from mmtokmerge.kernels.gpu.layer_operators import depthwise_rows
from mmtokmerge.kernels.gpu.switch import use_layer_kernels


def depthwise_activation(
    conv: nn.Module, activation: nn.Module, x: Tensor, hw: tuple[int, int]
) -> Tensor:
    """``activation(conv(map))`` on tokens ``(B, h*w, C)`` of the grid ``hw``; both are plain.

    On a GPU without gradients a 3x3 convolution and the exact GELU are one kernel, which keeps
    fp32 between them.
    """
    if x.is_cuda and _is_taken(conv, x) and use_layer_kernels(x):
        plain = cast(nn.Conv2d, conv)
        gelu = type(activation) is nn.GELU and activation.approximate == "none"
        x = depthwise_rows(x, plain.weight, plain.bias, hw, gelu)
        return x if gelu else activation(x)
    grid = x.unflatten(1, hw).permute(0, 3, 1, 2)  # (B, C, h, w), channels-last
    rows: Tensor = activation(conv(grid).permute(0, 2, 3, 1).flatten(1, 2))
    return rows


def is_3x3_depthwise(conv: Any) -> bool:
    """Whether a convolution is 3x3, padded by one with zeros, with one filter a channel."""
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.dilation == (1, 1)
        and conv.padding in ((1, 1), "same")
        and conv.padding_mode == "zeros"
        and conv.groups == conv.in_channels == conv.out_channels
    )


def _is_taken(conv: Any, x: Tensor) -> bool:
    """Whether the kernel takes it: of the right shape, and its tensors as they must lie."""
    channels = x.shape[-1]
    tensors = [conv.weight] if conv.bias is None else [conv.weight, conv.bias]
    return (
        is_3x3_depthwise(conv)
        and conv.in_channels == channels
        and x.is_contiguous()
        and x.shape[1] * channels < 2**31
        and all(
            each.dtype == x.dtype and each.device == x.device and each.is_contiguous()
            for each in tensors
        )
    )
