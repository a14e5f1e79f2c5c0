# mypy: ignore-errors
# Triton's kernel language looks like Python, but its values have no types that mypy knows.
"""A kernel that numbers the groups of a matching by rate, and counts their tokens."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.kernels.gpu.switch import MOST_AT_ONCE

FAR = tl.constexpr(2.0)  # what counts as infinity: above every cosine


def launch(
    similarity: Tensor, best: Tensor, values: Tensor | None, num_targets: int, num_groups: int
) -> tuple[Tensor, Tensor]:
    """Run the kernel, one program for each image.

    Args:
        similarity: ``(B, N)`` fp32, the cosine of each token with its destination; infinity, or
            NaN, for those that join before all others, destinations among them.
        best: ``(B, N)`` int64, each token's destination.
        values: ``(B, k)`` fp32, the k greatest of ``similarity``, in any order, ``k = N + D - M``.
            Of equal ones at the end the first tokens join. None lets the
            kernel find the least of them, with up to MOST_AT_ONCE tokens.
        num_targets: D.
        num_groups: M, ``D + N - k``.

    Returns:
        ``groups (B, N)`` and ``sizes (B, M)``, both int64: tokens that join have their destination,
        the others a group of their own after the destinations, in their order.
    """
    batch, tokens = similarity.shape
    groups = torch.empty(batch, tokens, dtype=torch.int64, device=similarity.device)
    sizes = torch.empty(batch, num_groups, dtype=torch.int64, device=similarity.device)
    if groups.numel() == 0:
        return groups, sizes
    if values is None and tokens > MOST_AT_ONCE:
        raise InputError(
            f"the kernel finds the most similar of up to {MOST_AT_ONCE} tokens itself, got "
            f"{tokens}: give it values"
        )
    block = min(MOST_AT_ONCE, max(16, triton.next_power_of_2(tokens)))
    groups_kernel[(batch,)](
        similarity.contiguous(),
        best.contiguous(),
        None if values is None else values.contiguous(),
        groups,
        sizes,
        tokens,
        tokens + num_targets - num_groups,
        num_targets,
        num_groups,
        BLOCK=block,
        num_warps=max(1, min(16, block // 256)),
    )
    return groups, sizes


@triton.jit
def groups_kernel(
    similarity_ptr,
    best_ptr,
    values_ptr,
    groups_ptr,
    sizes_ptr,
    num_tokens,
    num_joined,
    num_targets,
    num_groups,
    BLOCK: tl.constexpr,
):
    """Groups ``(B, N)`` and sizes ``(B, M)`` from the cosines, and the greatest if known."""
    batch = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    sizes = sizes_ptr + batch * num_groups
    for start in range(0, num_groups, BLOCK):
        group = start + place
        alone = (group >= num_targets).to(tl.int64)
        tl.store(sizes + group, alone, group < num_groups)
    tl.debug_barrier()  # the counts below are added to these

    above = 0
    if values_ptr is not None:
        least = tl.full((BLOCK,), FAR, tl.float32)
        for start in range(0, num_joined, BLOCK):
            inside = start + place < num_joined
            values = tl.load(values_ptr + batch * num_joined + start + place, inside, other=FAR)
            least = tl.minimum(least, _finite(values))
        bound = tl.min(least, axis=0)
        for start in range(0, num_joined, BLOCK):
            inside = start + place < num_joined
            values = tl.load(values_ptr + batch * num_joined + start + place, inside, other=bound)
            above += tl.sum((_finite(values) > bound).to(tl.int32), axis=0)
    else:
        inside = place < num_tokens
        value = _finite(tl.load(similarity_ptr + batch * num_tokens + place, inside, other=-FAR))
        bound = _greatest(value, inside, num_joined)
        above = tl.sum(((value > bound) & inside).to(tl.int32), axis=0)
    equal_ones = num_joined - above  # of those with the bound itself

    seen_equal = 0
    seen_alone = 0
    for start in range(0, num_tokens, BLOCK):
        token = start + place
        inside = token < num_tokens
        row = batch * num_tokens + token
        value = _finite(tl.load(similarity_ptr + row, inside, other=-FAR))
        equal = (value == bound) & inside
        rank = seen_equal + tl.cumsum(equal.to(tl.int32), axis=0)
        joins = ((value > bound) | (equal & (rank <= equal_ones))) & inside
        alone = inside & (joins == 0)
        order = seen_alone + tl.cumsum(alone.to(tl.int32), axis=0)
        target = tl.load(best_ptr + row, inside, other=0)
        group = tl.where(joins, target, (num_targets - 1 + order).to(tl.int64))
        tl.store(groups_ptr + row, group, inside)
        tl.atomic_add(sizes + target, tl.full((BLOCK,), 1, tl.int64), joins, sem="relaxed")
        seen_equal += tl.sum(equal.to(tl.int32), axis=0)
        seen_alone += tl.sum(alone.to(tl.int32), axis=0)


@triton.jit
def _greatest(value, inside, count):
    """The ``count``-th greatest value, found two bits at a time.

    As whole numbers the bits of floats are in their order, but for the sign's. Three bounds are
    tried at once: the numbers above each stand side by side in one sum of 64 bits.
    """
    bits = value.to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    order = bits.to(tl.int64) + 2147483648  # from 0
    order = tl.where(inside, order, -1)
    found = tl.full((), 0, tl.int64)
    one = tl.full((), 1, tl.int64)
    for turn in range(16):
        step = one << (30 - 2 * turn)
        first = (order >= found + step).to(tl.int64)
        second = (order >= found + 2 * step).to(tl.int64) << 20
        third = (order >= found + 3 * step).to(tl.int64) << 40
        counts = tl.sum(first + second + third, axis=0)
        low, middle, high = counts & 0xFFFFF, (counts >> 20) & 0xFFFFF, counts >> 40
        steps = (low >= count).to(tl.int64) + (middle >= count).to(tl.int64)
        found += step * (steps + (high >= count).to(tl.int64))
    bits = (found - 2147483648).to(tl.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _finite(value):
    """Cosines with infinity and NaN brought to a number above all others."""
    return tl.where(value < FAR, value, FAR)
