"""What a key's logits gain, carried by channels of queries and keys instead of a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from mmtokmerge.kernels.recording import is_exported

HALVES = (torch.float16, torch.bfloat16)
WIDEST = 256  # channels of a head in flash kernels
HIDDEN = -6e4
"""What stands for -inf: within fp16, and far below every logit."""


def takes_channels(q: Tensor, bias: Tensor | None) -> bool:
    """Whether the bias belongs to keys alone and a mask would cost a faster kernel.

    On a GPU a mask excludes flash attention, which is there in half precision from Ampere on. A
    CPU's kernels take one at no cost, and so do the runtimes that exported files run in.
    """
    if bias is None or not q.is_cuda or bias.requires_grad or is_exported():
        return False
    if q.dtype not in HALVES or q.shape[-1] + _more(q) > WIDEST or not _has_flash(q.device):
        return False
    return bias.dim() == 4 and bias.shape[1] == bias.shape[2] == 1


def _more(q: Tensor) -> int:
    """Channels that are added: two at least, up to the next multiple that flash kernels take."""
    step = 8 if q.dtype in HALVES else 4
    more = step - q.shape[-1] % step
    return more if more >= 2 else more + step


def _has_flash(device: torch.device) -> bool:
    if not torch.cuda.is_available():
        return True  # a tensor without memory, of a tracer or counter
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def carry_bias(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Queries, keys and values with more channels, whose scaled product holds the bias.

    ``scale * (q k + b) = scale * q k + bias`` where the queries have ones and the keys have
    ``b = bias / scale`` in further channels: a high and a low part in half precision, so that the
    sum is exact to the rounding of fp32 sums. The width grows to the next multiple that flash
    kernels take; values, which must be as wide, get zeros.

    Args:
        q: ``(B, heads, N, d)``.
        k: ``(B, heads, M, d)``.
        v: ``(B, heads, M, d)``.
        bias: ``(B or 1, 1, 1, M)``; -inf hides a key.

    Returns:
        The three and the scale that the product takes.
    """
    scale, more = q.shape[-1] ** -0.5, _more(q)
    precise = bias.to(torch.promote_types(q.dtype, torch.float32))
    wanted = (precise / scale).clamp(min=HIDDEN)[:, :, 0]  # (B, 1, M)
    high = wanted.to(q.dtype)
    low = (wanted - high).to(q.dtype)
    parts = torch.stack([high, low], dim=-1).expand(*k.shape[:3], 2)
    ones = q.new_ones(1).expand(*q.shape[:3], more)
    zeros = q.new_zeros(1)
    keys = torch.cat([k, parts, zeros.expand(*k.shape[:3], more - 2)], dim=-1)
    values = torch.cat([v, zeros.expand(*v.shape[:3], more)], dim=-1)
    return torch.cat([q, ones], dim=-1), keys, values, scale
