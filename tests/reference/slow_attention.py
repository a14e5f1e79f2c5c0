"""SegFormer's attention with merged tokens, composed step by step from published definitions.

Queries are merged from the layer's input, keys and values from the spatially reduced tokens after
their norm and before the projection; attention runs on the merged tokens, the result is copied back
to the full grid and projected there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import brute_force

Match = Callable[[Any, tuple[int, int]], list[int]]


def by_rate(rate: float, stride: tuple[int, int], **options: bool) -> Match:
    """Bipartite matching of a grid."""
    return lambda tokens, hw: brute_force.match_by_rate(tokens, hw, rate, stride, **options)


def by_cells(kernel: tuple[int, int]) -> Match:
    """Neighbours in two dimensions."""
    return lambda tokens, hw: brute_force.pool_cells(hw, kernel)


def by_runs(length: int) -> Match:
    """Neighbours along the raster sequence."""
    return lambda tokens, hw: brute_force.pool_cells((1, hw[0] * hw[1]), (1, length))


def _mean(x: Tensor, groups: list[int]) -> Tensor:
    return torch.tensor(brute_force.merge(x.tolist(), groups), dtype=x.dtype)


def attention(
    state: dict[str, Tensor],
    x: Tensor,
    hw: tuple[int, int],
    heads: int,
    sr_ratio: int,
    q_match: Match | None = None,
    kv_match: Match | None = None,
    proportional: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """Attention of one image's tokens ``x (N, C)`` with the parameters ``state``; ``(N, C)``."""
    channels = x.shape[1]
    kv, kv_hw = x, hw
    if sr_ratio > 1:
        grid = x.T.reshape(1, channels, *hw)
        reduced = F.conv2d(grid, state["sr.weight"], state["sr.bias"], stride=sr_ratio)
        kv_hw = (reduced.shape[2], reduced.shape[3])
        kv = reduced.flatten(2)[0].T
        kv = F.layer_norm(kv, (channels,), state["norm.weight"], state["norm.bias"], eps)
    kv_groups = list(range(len(kv))) if kv_match is None else kv_match(kv.tolist(), kv_hw)
    q_groups = list(range(len(x))) if q_match is None else q_match(x.tolist(), hw)
    keys, queries = _mean(kv, kv_groups), _mean(x, q_groups)

    weights = state["attn.in_proj_weight"].chunk(3)
    biases = state["attn.in_proj_bias"].chunk(3)
    q, k, v = (F.linear(t, w, b) for t, w, b in zip((queries, keys, keys), weights, biases))
    outs = []
    for one_q, one_k, one_v in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1)):
        logits = one_q @ one_k.T / (channels // heads) ** 0.5
        if proportional:
            counts = [kv_groups.count(group) for group in range(max(kv_groups) + 1)]
            logits = logits + torch.tensor(counts, dtype=x.dtype).log()
        outs.append(logits.softmax(1) @ one_v)
    full = torch.cat(outs, 1)[q_groups]
    return F.linear(full, state["attn.out_proj.weight"], state["attn.out_proj.bias"])
