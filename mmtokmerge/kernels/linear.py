"""Products of token rows with a matrix, by the fastest exact kernel of the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.kernels.processor import products_are_slow
from mmtokmerge.kernels.recording import is_recorded


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As :func:`torch.nn.functional.linear`, ``(..., C)`` to ``(..., D)``.

    On an AMD processor in fp32 it runs as a 1x1 convolution on channels-last memory, which is the
    same product in oneDNN: that asks the processor what it can do, while the library behind torch's
    own product (MKL) takes slower instructions there. On others it is torch's own product.

    Args:
        x: ``(..., C)``.
        weight: ``(D, C)``.
        bias: ``(D,)`` or None.
    """
    if not by_convolution(x) or weight.numel() == 0:
        return F.linear(x, weight, bias)
    rows = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, 1, N) channels-last
    out = F.conv2d(rows, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def products(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of the rows of ``x (B, N, C)`` and of ``y (B, M, C)``: ``(B, N, M)``."""
    if not by_convolution(x):
        return x @ y.transpose(1, 2)
    if x.shape[0] == 1:
        return linear(x, y[0])
    return torch.stack([linear(rows, others) for rows, others in zip(x, y)])


def by_convolution(x: Tensor) -> bool:
    """Whether products of ``x`` with a matrix run in oneDNN: fp32 on an AMD processor."""
    if is_recorded() or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    onednn = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    onednn = onednn and products_are_slow()
    return onednn and x.numel() > 0 and not torch.is_autocast_enabled("cpu")
