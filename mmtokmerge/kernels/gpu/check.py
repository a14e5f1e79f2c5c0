"""The kernels beside torch's own on random tokens, at their first use on a device and type."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.kernels.gpu.operators import (
    groups_of_matching,
    match_on_grid,
    mean_of_groups,
    most_similar_triton,
    spread_onto,
)
from mmtokmerge.kernels.gpu.switch import MOST_AT_ONCE

SMALL = ((13, 18), (4, 4), 150)
"""Grid, cell and tokens that join: a remainder on both sides."""
LARGE = ((66, 64), (2, 2), 3000)
"""More tokens than a kernel holds at once, full blocks, a walk over many tiles."""
WIDTHS = (32, 64, 160)  # those that the matching holds at once, and more


def first_difference(device: torch.device, dtype: torch.dtype) -> str | None:
    """What the kernels do otherwise than torch, in a sentence; None if they agree."""
    from mmtokmerge.kernels.gpu.best import EXACT

    large = WIDTHS if device.type == "cuda" else WIDTHS[:1]  # what is interpreted takes minutes
    token = EXACT.set(True)
    try:
        with torch.autocast(device.type, enabled=False):
            for batch, channels, case in (
                *((2, channels, SMALL) for channels in WIDTHS),
                *((4, channels, LARGE) for channels in large),
            ):
                found = _compare(device, dtype, batch, channels, *case)
                if found is not None:
                    return f"{found} with {channels} channels on a grid of {case[0]}"
    finally:
        EXACT.reset(token)
    return None


def _compare(
    device: torch.device,
    dtype: torch.dtype,
    batch: int,
    channels: int,
    hw: tuple[int, int],
    cell: tuple[int, int],
    joined: int,
) -> str | None:
    generator = torch.Generator("cpu").manual_seed(channels)
    tokens = hw[0] * hw[1]
    x = torch.randn(batch, channels, tokens, generator=generator, device="cpu")
    x = x.to(device, dtype).transpose(1, 2)  # tokens whose channels are strided
    step = torch.finfo(dtype).eps
    rows, columns = hw[0] // cell[0], hw[1] // cell[1]
    places = [r * cell[0] * hw[1] + c * cell[1] for r in range(rows) for c in range(columns)]
    targets = x[:, places]
    scores = F.normalize(x.double(), dim=-1) @ F.normalize(targets.double(), dim=-1).mT
    absent = torch.zeros(batch, len(places), dtype=torch.bool, device=device)
    absent[0, 1] = True
    hidden = scores.masked_fill(absent[:, None], -torch.inf)
    cosine, index = most_similar_triton(x, targets, absent)
    if not _are_best(hidden, cosine, index, 4 * step + 1e-5):
        return "the most similar destinations differ"
    cosine, index = match_on_grid(x, hw, cell, (0, 0))
    own = torch.arange(len(places), device=device).expand(batch, -1)
    sources = torch.ones(tokens, dtype=torch.bool, device=device)
    sources[places] = False
    if not (
        _are_best(scores[:, sources], cosine[:, sources], index[:, sources], 4 * step + 1e-5)
        and bool(cosine[:, places].isinf().all())
        and torch.equal(index[:, places], own)
    ):
        return "the destinations of a grid differ"
    return _compare_merges(x, cosine, index, len(places), joined, step)


def _compare_merges(
    x: Tensor, cosine: Tensor, index: Tensor, targets: int, joined: int, step: float
) -> str | None:
    batch, tokens, _ = x.shape
    values = cosine.topk(joined, dim=1, sorted=False).values
    count = targets + tokens - joined
    groups, sizes = groups_of_matching(cosine, index, values, targets, count)
    if tokens <= MOST_AT_ONCE:
        same = groups_of_matching(cosine, index, None, targets, count)
        if not (torch.equal(groups, same[0]) and torch.equal(sizes, same[1])):
            return "the groups differ where the kernel finds the most similar"
    order = cosine.argsort(dim=1, descending=True, stable=True)[:, :joined]  # first of equal ones
    joins = torch.zeros_like(index, dtype=torch.bool)
    joins = joins.scatter(1, order, torch.ones_like(order, dtype=torch.bool))
    expected = torch.where(joins, index, targets - 1 + (~joins).cumsum(1))
    counts = torch.zeros_like(sizes).scatter_add_(1, expected, torch.ones_like(expected))
    if not (torch.equal(groups, expected) and torch.equal(sizes, counts)):
        return "the groups differ"
    means = _means(x, groups, sizes, None)
    weights = (torch.arange(tokens, device=x.device) % 5).float().expand(batch, -1)
    sums = torch.zeros(sizes.shape, device=x.device).scatter_add_(1, groups, weights)
    alike = groups[:1]
    of_all = torch.zeros_like(sizes[:1]).scatter_add_(1, alike, torch.ones_like(alike))
    for found, right in (
        (mean_of_groups(x, groups, sizes, None, targets), means),
        (mean_of_groups(x, groups, sizes, None, count), means),
        (mean_of_groups(x, groups, sums, weights, count), _means(x, groups, sums, weights)),
        (mean_of_groups(x, alike, of_all, None, targets), _means(x, alike, of_all, None)),
    ):
        if not _close(found, right, 2 * step):
            return "the means of groups differ"
    y = means.to(x.dtype)
    whole = x.double() + y.double().gather(1, groups[..., None].expand(-1, -1, x.shape[2]))
    if not _close(spread_onto(y, groups, x), whole, 2 * step):
        return "the unmerged tokens differ"
    return None


def _means(x: Tensor, groups: Tensor, sizes: Tensor, weights: Tensor | None) -> Tensor:
    """Means ``(B, M, C)`` in fp64, by torch."""
    rows = x.double() if weights is None else x.double() * weights[..., None]
    index = groups.expand(len(x), -1)[..., None].expand_as(rows)
    sums = rows.new_zeros(len(x), sizes.shape[1], x.shape[2]).scatter_add_(1, index, rows)
    return sums / sizes.masked_fill(sizes == 0, 1)[..., None]


def _are_best(scores: Tensor, cosine: Tensor, index: Tensor, tolerance: float) -> bool:
    best = scores.amax(-1)
    chosen = scores.gather(2, index[..., None])[..., 0]
    return _close(cosine, best, tolerance) and bool((chosen >= best - tolerance).all())


def _close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return torch.allclose(found.double(), expected.double(), atol=4 * tolerance, rtol=tolerance)
