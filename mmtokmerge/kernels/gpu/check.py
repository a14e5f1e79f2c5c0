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

GRID, CELL, OFFSET = (13, 18), (4, 4), (0, 0)
TARGETS = (GRID[0] // CELL[0]) * (GRID[1] // CELL[1])
JOINED = 150  # tokens that join a destination, those included
WIDTHS = (32, 160)  # below and above what the matching holds at once


def first_difference(device: torch.device, dtype: torch.dtype) -> str | None:
    """What the kernels do otherwise than torch, in a sentence; None if they agree."""
    matmul = torch.backends.cuda.matmul
    allowed, matmul.allow_tf32 = matmul.allow_tf32, False  # TF32 would differ as it is meant to
    try:
        with torch.autocast(device.type, enabled=False):
            for channels in WIDTHS:
                found = _compare(device, dtype, channels)
                if found is not None:
                    return f"{found} with {channels} channels"
    finally:
        matmul.allow_tf32 = allowed
    return None


def _compare(device: torch.device, dtype: torch.dtype, channels: int) -> str | None:
    generator = torch.Generator().manual_seed(channels)
    tokens = GRID[0] * GRID[1]
    x = torch.randn(2, tokens, channels, generator=generator).to(device, dtype)
    step = torch.finfo(dtype).eps
    places = [
        row * CELL[0] * GRID[1] + column * CELL[1]
        for row in range(GRID[0] // CELL[0])
        for column in range(GRID[1] // CELL[1])
    ]
    targets = x[:, places]
    scores = F.normalize(x.double(), dim=-1) @ F.normalize(targets.double(), dim=-1).mT
    cosine, index = most_similar_triton(x, targets)
    if not _are_best(scores, cosine, index, 4 * step + 1e-5):
        return "the most similar destinations differ"
    cosine, index = match_on_grid(x, GRID, CELL, OFFSET)
    own = torch.arange(TARGETS, device=device).expand(2, -1)
    sources = torch.ones(tokens, dtype=torch.bool, device=device)
    sources[places] = False
    if not (
        _are_best(scores[:, sources], cosine[:, sources], index[:, sources], 4 * step + 1e-5)
        and bool(cosine[:, places].isinf().all())
        and torch.equal(index[:, places], own)
    ):
        return "the destinations of a grid differ"
    values = cosine.topk(JOINED, dim=1, sorted=False).values
    count = TARGETS + tokens - JOINED
    groups, sizes = groups_of_matching(cosine, index, values, TARGETS, count)
    joined = cosine >= values.amin(1, keepdim=True)
    expected = torch.where(joined, index, TARGETS - 1 + (~joined).cumsum(1))
    counts = torch.zeros_like(sizes).scatter_add_(1, expected, torch.ones_like(expected))
    if not (torch.equal(groups, expected) and torch.equal(sizes, counts)):
        return "the groups differ"
    member = F.one_hot(groups, count).double()  # (B, N, M)
    means = (member.mT @ x.double()) / counts[..., None]
    for shared in (TARGETS, count):
        if not _close(mean_of_groups(x, groups, sizes, None, shared), means, 2 * step):
            return "the means of groups differ"
    y = means.to(dtype)
    whole = x.double() + member @ y.double()
    if not _close(spread_onto(y, groups, x), whole, 2 * step):
        return "the unmerged tokens differ"
    return None


def _are_best(scores: Tensor, cosine: Tensor, index: Tensor, tolerance: float) -> bool:
    best = scores.amax(-1)
    chosen = scores.gather(2, index[..., None])[..., 0]
    return _close(cosine, best, tolerance) and bool((chosen >= best - tolerance).all())


def _close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return torch.allclose(found.double(), expected.double(), atol=4 * tolerance, rtol=tolerance)
