"""Attention of images that keep different numbers of tokens, with no bias that hides padding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, MutableMapping, Sequence
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from mmtokmerge.kernels.attention import attend

DTYPES = (torch.float16, torch.bfloat16)
MAX_WIDTH = 256  # of a head, in flash attention; a multiple of 8
CAPABILITY = (8, 0)  # of the GPUs that flash attention knows


def attend_unpadded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    *,
    dropout: float = 0.0,
    fused: bool = True,
) -> Tensor:
    """Attention of each image among its own tokens, which stand first in its rows.

    As :func:`mmtokmerge.layers.attend` with a bias that hides the other keys; but a bias excludes
    flash attention. Where torch's variable-length flash attention runs, it takes the rows as they
    lie and nothing waits for the device. That is in fp16 and bf16 without gradients and dropout,
    eagerly, on a CUDA GPU of the Ampere generation or newer, with a torch whose
    ``torch.nn.attention.varlen.varlen_attn`` has ``seqused_k`` (2.12 has it). Elsewhere the images
    are attended to one after the other, for which the device is asked for the lengths once.

    Args:
        q: Queries ``(B, heads, N, d)``.
        k: Keys ``(B, heads, N, d)``.
        v: Values ``(B, heads, N, d)``.
        lengths: ``(B,)`` int, how many tokens of each image are not padding, from 1 to N; the
            values are not checked, which would wait for the device.
        dropout: Probability of dropping an attention weight.
        fused: See :func:`mmtokmerge.layers.attend`.

    Returns:
        ``(B, heads, N, d)``. Rows of padded queries are finite, zeros or what a query there gets:
        later merges weigh them with 0, which would spread a NaN.

    Raises:
        ValueError: If ``lengths`` is not one number for each image.
    """
    if lengths.shape != q.shape[:1]:
        raise ValueError(f"lengths must be {tuple(q.shape[:1])}, got {tuple(lengths.shape)}")
    kernel = find_kernel(q, k, v) if fused and dropout == 0 else None
    if kernel is None:
        return _one_by_one(q, k, v, lengths, dropout, fused)
    batch, _, tokens, _ = q.shape
    starts = torch.arange(batch + 1, dtype=torch.int32, device=q.device) * tokens
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B*N, heads, d)
    y = kernel(q, k, v, starts, starts, tokens, tokens, seqused_k=lengths.to(torch.int32))
    out: Tensor = y.unflatten(0, (batch, tokens)).transpose(1, 2)
    return out


def remember(lengths: Tensor, numbers: Sequence[int]) -> Tensor:
    """Note what ``lengths (B,)`` holds, where it is known without asking the device."""
    _ON_HOST[lengths] = (lengths._version, list(numbers))
    return lengths


def on_host(lengths: Tensor) -> list[int]:
    """The numbers of ``lengths (B,)``; the device is asked once for each tensor."""
    version, numbers = _ON_HOST.get(lengths, (None, []))
    if version != lengths._version:
        numbers = lengths.tolist()
        remember(lengths, numbers)
    return numbers


_ON_HOST: MutableMapping[Tensor, tuple[int, list[int]]] = WeakTensorKeyDictionary()


def find_kernel(q: Tensor, k: Tensor, v: Tensor) -> Callable[..., Tensor] | None:
    """torch's ``varlen_attn`` where it runs on ``(B, heads, N, d)``; None elsewhere."""
    if torch.compiler.is_compiling():
        return None
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return None  # the numbers of tokens used are for inference alone
    width = q.shape[-1]
    if q.dtype not in DTYPES or width % 8 or width > MAX_WIDTH or not _has_flash(q.device):
        return None
    return _import_kernel()


def _import_kernel() -> Callable[..., Tensor] | None:
    """``varlen_attn``; None in a torch that lacks it or its ``seqused_k``."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    kernel = cast(Callable[..., Tensor], varlen_attn)
    return kernel if _takes_lengths(kernel) else None


@lru_cache
def _takes_lengths(kernel: Callable[..., Tensor]) -> bool:
    return "seqused_k" in inspect.signature(kernel).parameters


@lru_cache
def _has_flash(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    available = torch.backends.cuda.is_flash_attention_available()
    return available and torch.cuda.get_device_capability(device) >= CAPABILITY


def _one_by_one(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, dropout: float, fused: bool
) -> Tensor:
    """The same, one image after the other; zeros where a query is padding."""
    batch, heads, tokens, _ = q.shape
    rows = []  # heads side by side, as they go on
    for image, length in enumerate(on_host(lengths)):
        own = slice(image, image + 1), slice(None), slice(length)
        y = attend(q[own], k[own], v[own], dropout=dropout, fused=fused)[0].transpose(0, 1)
        rows += [y, y.new_zeros(tokens - length, heads, v.shape[-1])]
    joined: Tensor = torch.cat(rows).unflatten(0, (batch, tokens)).transpose(1, 2)
    return joined
