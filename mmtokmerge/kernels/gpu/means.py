# mypy: ignore-errors
# Triton's kernel language looks like Python, but its values have no types that mypy knows.
"""Kernels that average the tokens of each group, and that hand a group's row to its tokens."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmtokmerge.kernels.gpu.best import INTERPRETED, precision_of

SHORT = 512
"""Groups of several tokens up to which a product with ones and zeros sums them."""


def launch_means(
    x: Tensor, groups: Tensor, sizes: Tensor, weights: Tensor | None, shared: int
) -> Tensor:
    """The mean of each group, summed in fp32.

    Few groups of several tokens are summed by a product with the matrix of ones and zeros that says
    who stands where, which adds in a fixed order; many by additions in memory. The mean of a group
    with an infinity is NaN by the first and infinite by the second.

    Args:
        x: ``(B, N, C)`` of any strides, fp32 or half precision.
        groups: ``(B or 1, N)`` int64.
        sizes: ``(B or 1, M)`` what a group's sum is divided by, int64 or fp32; 0 leaves zeros.
        weights: ``(B, N)`` fp32 which tokens are multiplied by; None: ones.
        shared: Groups from this number on hold exactly one token of weight 1.

    Returns:
        ``(B, M, C)`` in the dtype of ``x``.
    """
    batch, tokens, channels = x.shape
    num_groups = sizes.shape[1]
    means = torch.empty(batch, num_groups, channels, dtype=x.dtype, device=x.device)
    if means.numel() == 0:
        return means
    wide = min(64, max(16, triton.next_power_of_2(channels)))
    pieces = triton.cdiv(channels, wide)
    shift = 0 if groups.shape[0] == 1 else 1
    common = dict(shift=shift, size_shift=0 if sizes.shape[0] == 1 else num_groups, BLOCK_C=wide)
    weights = None if weights is None else weights.contiguous()
    if 0 < shared <= SHORT:
        rows = 32
        mean_kernel[(triton.cdiv(shared, rows) + triton.cdiv(tokens, 64), pieces, batch)](
            x,
            groups.contiguous(),
            sizes.contiguous(),
            weights,
            means,
            tokens,
            channels,
            num_groups,
            shared,
            *x.stride(),
            **common,
            PRECISION=precision_of(x.device, x.dtype, exact=True),
            UPCAST=INTERPRETED,
            BLOCK_M=rows,
            BLOCK_N=64,
            num_warps=4,
        )
        return means
    sums = torch.zeros(batch, num_groups, channels, dtype=torch.float32, device=x.device)
    sum_kernel[(triton.cdiv(tokens, 64), pieces, batch)](
        x,
        groups.contiguous(),
        weights,
        sums,
        tokens,
        channels,
        num_groups,
        *x.stride(),
        shift=shift,
        BLOCK_N=64,
        BLOCK_C=wide,
        num_warps=4,
    )
    divide_kernel[(triton.cdiv(num_groups, 64), pieces, batch)](
        sums,
        sizes.contiguous(),
        means,
        num_groups,
        channels,
        size_shift=common["size_shift"],
        BLOCK_N=64,
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
def mean_kernel(
    x_ptr,
    groups_ptr,
    sizes_ptr,
    weights_ptr,
    means_ptr,
    num_tokens,
    num_channels,
    num_groups,
    num_shared,
    stride_b,
    stride_n,
    stride_c,
    shift,
    size_shift,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Means ``(B, M, C)``: the first programs sum groups, the others copy what stands alone."""
    part = tl.program_id(0)
    batch = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = channel < num_channels
    x_image = x_ptr + batch * stride_b + channel[None, :] * stride_c
    groups = groups_ptr + batch * shift * num_tokens
    means = means_ptr + batch * num_groups * num_channels + channel[None, :]
    summing = tl.cdiv(num_shared, BLOCK_M)
    lane = tl.arange(0, BLOCK_N)
    if part < summing:
        own = part * BLOCK_M + tl.arange(0, BLOCK_M)
        sums = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for start in range(0, num_tokens, BLOCK_N):
            token = start + lane
            here = token < num_tokens
            group = tl.load(groups + token, here, other=-1)
            pointers = x_image + token.to(tl.int64)[:, None] * stride_n
            rows = tl.load(pointers, here[:, None] & inside_c[None, :], other=0.0)
            if weights_ptr is not None:
                weight = tl.load(weights_ptr + batch * num_tokens + token, here, other=0.0)
                rows = rows.to(tl.float32) * weight[:, None]
            member = own[:, None] == group[None, :]  # (BLOCK_M, BLOCK_N)
            whole = rows.to(tl.float32)
            strange = (whole != whole) | (tl.abs(whole) == float("inf"))
            if tl.max(strange.to(tl.int32)) > 0:  # 0 times NaN would reach other groups
                flags = strange.to(tl.float32)
                rows = tl.where(strange, 0.0, whole).to(rows.dtype)
                hit = tl.dot(member.to(tl.float32), flags, input_precision="ieee")
                sums = tl.where(hit > 0, float("nan"), sums)
            ones = member.to(tl.float32).to(rows.dtype)
            if UPCAST:
                ones, rows = ones.to(tl.float32), rows.to(tl.float32)
            sums = tl.dot(ones, rows, sums, input_precision=PRECISION)
        size = tl.load(sizes_ptr + batch * size_shift + own, own < num_shared, other=1)
        size = size.to(tl.float32)
        size = tl.where(size == 0, 1.0, size)
        mean = tl.div_rn(sums, tl.broadcast_to(size[:, None], (BLOCK_M, BLOCK_C)))
        summed = (own < num_shared)[:, None] & inside_c[None, :]
        target = means + own.to(tl.int64)[:, None] * num_channels
        tl.store(target, mean.to(means_ptr.dtype.element_ty), summed)
    else:
        single = (part - summing) * BLOCK_N + lane
        its_group = tl.load(groups + single, single < num_tokens, other=0)
        alone = (single < num_tokens) & (its_group >= num_shared)
        copied = alone[:, None] & inside_c[None, :]
        row = tl.load(x_image + single.to(tl.int64)[:, None] * stride_n, copied, other=0.0)
        tl.store(means + its_group[:, None] * num_channels, row, copied)


@triton.jit
def sum_kernel(
    x_ptr,
    groups_ptr,
    weights_ptr,
    sums_ptr,
    num_tokens,
    num_channels,
    num_groups,
    stride_b,
    stride_n,
    stride_c,
    shift,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums ``(B, M, C)`` in fp32, added in memory."""
    batch = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    token = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    here = token < num_tokens
    inside = here[:, None] & (channel < num_channels)[None, :]
    pointers = x_ptr + batch * stride_b + token.to(tl.int64)[:, None] * stride_n
    rows = tl.load(pointers + channel[None, :] * stride_c, inside, other=0.0).to(tl.float32)
    if weights_ptr is not None:
        weight = tl.load(weights_ptr + batch * num_tokens + token, here, other=0.0)
        rows = rows * weight[:, None]
    group = tl.load(groups_ptr + batch * shift * num_tokens + token, here, other=0)
    target = sums_ptr + (batch * num_groups + group[:, None]) * num_channels + channel[None, :]
    tl.atomic_add(target, rows, inside, sem="relaxed")


@triton.jit
def divide_kernel(
    sums_ptr,
    sizes_ptr,
    means_ptr,
    num_groups,
    num_channels,
    size_shift,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums ``(B, M, C)`` over sizes, in the dtype of the means."""
    batch = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    group = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (group < num_groups)[:, None] & (channel < num_channels)[None, :]
    place = (batch * num_groups + group[:, None]) * num_channels + channel[None, :]
    sums = tl.load(sums_ptr + place, inside, other=0.0)
    size = tl.load(sizes_ptr + batch * size_shift + group, group < num_groups, other=1)
    size = size.to(tl.float32)
    size = tl.where(size == 0, 1.0, size)
    mean = tl.div_rn(sums, tl.broadcast_to(size[:, None], (BLOCK_N, BLOCK_C)))
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
