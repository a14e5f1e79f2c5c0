# mypy: ignore-errors
# Triton's kernel language looks like Python, but its values have no types that mypy knows.
"""Kernels that average the tokens of each group, and that hand a group's row to its tokens."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def launch_means(
    x: Tensor, groups: Tensor, sizes: Tensor, weights: Tensor | None, shared: int
) -> Tensor:
    """The mean of each group, summed in fp32 by additions in memory.

    Additions to one sum come in no fixed order, so that means differ in the last bits from run to
    run. A product with the ones and zeros that say who stands where, which has an order, was tried
    and took two to four times as long on an H200.

    Args:
        x: ``(B, N, C)`` of any strides, fp32 or half precision.
        groups: ``(B or 1, N)`` int64.
        sizes: ``(B or 1, M)`` what a group's sum is divided by, int64 or fp32; 0 leaves zeros.
        weights: ``(B, N)`` fp32 which tokens are multiplied by; None: ones.
        shared: Groups from this number on hold exactly one token of weight 1, which is copied.

    Returns:
        ``(B, M, C)`` in the dtype of ``x``.
    """
    batch, tokens, channels = x.shape
    num_groups = sizes.shape[1]
    means = torch.empty(batch, num_groups, channels, dtype=x.dtype, device=x.device)
    if means.numel() == 0:
        return means
    sums = torch.zeros(batch, shared, channels, dtype=torch.float32, device=x.device)
    wide = min(64, max(16, triton.next_power_of_2(channels)))
    pieces = triton.cdiv(channels, wide)
    if tokens > 0:
        sum_kernel[(triton.cdiv(tokens, 64), pieces, batch)](
            x,
            groups.contiguous(),
            None if weights is None else weights.contiguous(),
            sums,
            means,
            tokens,
            channels,
            num_groups,
            shared,
            *x.stride(),
            shift=0 if groups.shape[0] == 1 else 1,
            BLOCK_N=64,
            BLOCK_C=wide,
            num_warps=4,
        )
    if shared > 0:
        divide_kernel[(triton.cdiv(shared, 32), pieces, batch)](
            sums,
            sizes.contiguous(),
            means,
            num_groups,
            shared,
            channels,
            size_shift=0 if sizes.shape[0] == 1 else num_groups,
            BLOCK_N=32,
            BLOCK_C=wide,
            num_warps=4,
        )
    return means


def launch_spread(y: Tensor, groups: Tensor, onto: Tensor) -> Tensor:
    """``onto (B, N, C)`` plus each token's group's row of ``y (B, M, C)``, in one pass."""
    batch, tokens, channels = onto.shape
    out = torch.empty(batch, tokens, channels, dtype=onto.dtype, device=onto.device)
    if out.numel() == 0:
        return out
    wide = min(128, max(16, triton.next_power_of_2(channels)))
    spread_kernel[(triton.cdiv(tokens, 64), triton.cdiv(channels, wide), batch)](
        y,
        groups.contiguous(),
        onto,
        out,
        tokens,
        channels,
        *y.stride(),
        *onto.stride(),
        shift=0 if groups.shape[0] == 1 else 1,
        BLOCK_N=64,
        BLOCK_C=wide,
        num_warps=4,
    )
    return out


@triton.jit
def sum_kernel(
    x_ptr,
    groups_ptr,
    weights_ptr,
    sums_ptr,
    means_ptr,
    num_tokens,
    num_channels,
    num_groups,
    num_shared,
    stride_b,
    stride_n,
    stride_c,
    shift,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums ``(B, shared, C)`` in fp32, added in memory; tokens that stand alone are copied."""
    batch = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    token = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    here = token < num_tokens
    inside_c = (channel < num_channels)[None, :]
    pointers = x_ptr + batch * stride_b + token.to(tl.int64)[:, None] * stride_n
    row = tl.load(pointers + channel[None, :] * stride_c, here[:, None] & inside_c, other=0.0)
    group = tl.load(groups_ptr + batch * shift * num_tokens + token, here, other=0)
    alone = here & (group >= num_shared)
    target = means_ptr + (batch * num_groups + group[:, None]) * num_channels + channel[None, :]
    tl.store(target, row, alone[:, None] & inside_c)
    part = row.to(tl.float32)
    if weights_ptr is not None:
        weight = tl.load(weights_ptr + batch * num_tokens + token, here, other=0.0)
        part = part * weight[:, None]
    target = sums_ptr + (batch * num_shared + group[:, None]) * num_channels + channel[None, :]
    tl.atomic_add(target, part, (here & (alone == 0))[:, None] & inside_c, sem="relaxed")


@triton.jit
def divide_kernel(
    sums_ptr,
    sizes_ptr,
    means_ptr,
    num_groups,
    num_shared,
    num_channels,
    size_shift,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums ``(B, shared, C)`` over sizes, in the dtype of the means ``(B, M, C)``."""
    batch = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    group = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (group < num_shared)[:, None] & (channel < num_channels)[None, :]
    place = (batch * num_shared + group[:, None]) * num_channels + channel[None, :]
    sums = tl.load(sums_ptr + place, inside, other=0.0)
    size = tl.load(sizes_ptr + batch * size_shift + group, group < num_shared, other=1)
    size = size.to(tl.float32)
    size = tl.where(size == 0, 1.0, size)
    mean = tl.div_rn(sums, tl.broadcast_to(size[:, None], (BLOCK_N, BLOCK_C)))
    place = (batch * num_groups + group[:, None]) * num_channels + channel[None, :]
    tl.store(means_ptr + place, mean.to(means_ptr.dtype.element_ty), inside)


@triton.jit
def spread_kernel(
    y_ptr,
    groups_ptr,
    onto_ptr,
    out_ptr,
    num_tokens,
    num_channels,
    y_stride_b,
    y_stride_m,
    y_stride_c,
    onto_stride_b,
    onto_stride_n,
    onto_stride_c,
    shift,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``onto (B, N, C)`` plus the row of ``y (B, M, C)`` of each token's group."""
    batch = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    token = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    here = token < num_tokens
    inside = here[:, None] & (channel < num_channels)[None, :]
    group = tl.load(groups_ptr + batch * shift * num_tokens + token, here, other=0)
    row = token.to(tl.int64)[:, None]
    source = y_ptr + batch * y_stride_b + group[:, None] * y_stride_m
    base = onto_ptr + batch * onto_stride_b + row * onto_stride_n
    branch = tl.load(source + channel[None, :] * y_stride_c, inside, other=0.0).to(tl.float32)
    whole = tl.load(base + channel[None, :] * onto_stride_c, inside, other=0.0).to(tl.float32)
    out = out_ptr + (batch * num_tokens + row) * num_channels + channel[None, :]
    tl.store(out, (whole + branch).to(out_ptr.dtype.element_ty), inside)
