"""Scaled dot-product attention: torch's fused kernels, oneDNN's products, or the formula."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmtokmerge.kernels.key_weights import carry_bias, takes_channels
from mmtokmerge.kernels.linear import by_convolution, linear

# Of each thread, measured with two (benchmarks/kernels_cpu.py).
SCORES = 2**19  # scores held at once: with their softmax they stay in the cache
MAX_ROWS = 4096
MIN_SCORES = 2**16  # of a head; below, the calls cost more than they win
# Of all threads.
MIN_ROWS = 512
MIN_KEYS = 64
WIDE, MAX_NARROW_KEYS = 64, 1536  # channels of a head; of fewer, many keys are torch's kernel's


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    dropout: float = 0.0,
    fused: bool = True,
) -> Tensor:
    """Scaled dot-product attention (Segformer++, equation 2), scaled by the head's width.

    Args:
        q: Queries ``(B, heads, N, d)``.
        k: Keys ``(B, heads, M, d)``.
        v: Values ``(B, heads, M, d)``.
        bias: Added to the logits, broadcast to ``(B, heads, N, M)``; -inf hides a key. Best in
            fp32, whatever the tokens are: the log of a size is off by up to 1.8% in bf16.
        dropout: Probability of dropping an attention weight.
        fused: Never hold all scores: torch's fused kernels, or at inference in fp32 on an AMD
            processor, many queries at a time, oneDNN's products, which are faster there; False
            spells the formula out.

    Returns:
        ``(B, heads, N, d)``.
    """
    if not fused:
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, N, M)
        if bias is not None:
            logits = logits + bias
        weights = logits.softmax(dim=-1).to(v.dtype)
        return F.dropout(weights, dropout, training=dropout > 0) @ v
    alike = q.shape[:2] == k.shape[:2] == v.shape[:2]
    if dropout == 0 and alike and by_rows(q.shape[2], k, bias):
        return _attend_rows(q, k, v, bias)
    if bias is not None and takes_channels(q, bias):
        width = v.shape[-1]
        q, k, v, scale = carry_bias(q, k, v, bias)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
        return y[..., :width]
    if bias is not None:  # a CPU's kernels add fp32 to halves, and take nothing else for wrong
        single = torch.promote_types(q.dtype, torch.float32)
        bias = bias.to(q.dtype if q.is_cuda else single)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


@contextmanager
def for_changing_lengths(x: Tensor, changing: bool = True) -> Iterator[None]:
    """On a GPU, let torch's attention take none of the kernels that plan anew for each length.

    cuDNN's plan for a new number of tokens takes longer than the attention itself; flash and
    memory-efficient kernels, and the formula, need none.

    Args:
        x: Tokens, whose device counts.
        changing: Whether every image brings another number of tokens; else nothing is done.
    """
    if not (changing and x.is_cuda):
        yield
        return
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def by_rows(num_queries: int, k: Tensor, bias: Tensor | None = None) -> bool:
    """Whether :func:`attend` without dropout takes many queries at a time, where it is faster.

    Args:
        num_queries: N.
        k: Keys ``(..., M, d)``.
        bias: Added to the logits; one that differs between queries does not go with it.
    """
    if torch.is_grad_enabled() or not by_convolution(k):
        return False
    num_keys, width = k.shape[-2:]
    shared = bias is None or (
        bias.dim() == 4 and bias.shape[2:] == (1, num_keys) and bias.dtype == k.dtype
    )
    many = num_queries >= MIN_ROWS and num_keys >= MIN_KEYS
    many = many and (width >= WIDE or num_keys <= MAX_NARROW_KEYS)
    return shared and many and num_queries * num_keys >= MIN_SCORES * torch.get_num_threads()


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of one head, some queries after the others; ``bias (., ., 1, M)``."""
    batch, heads, num_queries, _ = q.shape
    threads = torch.get_num_threads()
    rows = max(min(SCORES * threads // k.shape[2], MAX_ROWS * threads), MIN_ROWS)
    keys = (k * q.shape[-1] ** -0.5).contiguous()
    columns = v.transpose(2, 3).contiguous()  # (B, heads, d, M)
    if bias is not None:
        bias = bias.expand(batch, heads, 1, -1)[:, :, 0]
    y = q.new_empty(batch, num_queries, heads, v.shape[-1])  # heads side by side, as they go on
    for image in range(batch):
        for head in range(heads):
            shift = None if bias is None else bias[image, head]
            for top in range(0, num_queries, rows):
                part = q[image, head, top : top + rows]
                scores = linear(part, keys[image, head], shift)
                torch.softmax(scores, dim=-1, out=scores)  # one buffer, which stays in the heap
                y[image, top : top + rows, head] = linear(scores, columns[image, head])
    return y.transpose(1, 2)
