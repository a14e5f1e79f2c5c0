"""Clusters of neighbouring tokens around a coarser grid of centres."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.grid import constant_of_grid, pair


def local_clustering(
    x: Tensor,
    hw: tuple[int, int],
    *,
    clusters: tuple[int, int],
    iterations: int = 5,
    temperature: float = 50.0,
) -> TokenAssignment:
    """Cluster the tokens of a grid around centres of a coarser one (ELViT, section 3.2).

    The first centres are means of adaptive pooling. In each iteration a token belongs to the up to
    nine centres around its own cell by the softmax of ``-|x - z|^2 / temperature``, and the centres
    become the means weighted so. In the end every token stands with the centre that it belongs to
    most: an assignment is hard, where the paper's centres stay weighted means.

    Args:
        x: Tokens ``(B, h*w, C)``.
        hw: The grid ``(h, w)``.
        clusters: Centres ``(h', w')``, at most the grid.
        iterations: How often the centres move; 0 leaves the pooled ones.
        temperature: tau.

    Returns:
        Groups in the order of their first token; the device is asked for their numbers once, since
        centres may end without a token.

    Raises:
        ValueError: If the grid does not hold the tokens, or there are more centres than tokens on a
            side.
    """
    rows, columns = pair(clusters, "clusters")
    if hw[0] * hw[1] != x.shape[1] or rows > hw[0] or columns > hw[1]:
        raise InputError(
            f"clusters {clusters} must be at most the grid {hw}, which must hold "
            f"{x.shape[1]} tokens"
        )
    with torch.no_grad():
        tokens = x.to(torch.promote_types(x.dtype, torch.float32))
        maps = tokens.transpose(1, 2).unflatten(2, hw)  # (B, C, h, w)
        centres = F.adaptive_avg_pool2d(maps, (rows, columns)).flatten(2).transpose(1, 2)
        near, outside = neighbours(hw, (rows, columns), x.device)  # (N, 9) twice
        index = near.flatten()
        batch, _, channels = tokens.shape
        weights = tokens
        for step in range(iterations + 1):
            around = centres.index_select(1, index).unflatten(1, near.shape)  # (B, N, 9, C)
            distance = (around - tokens[:, :, None]).square().sum(-1)
            weights = (-distance / temperature).masked_fill(outside, -torch.inf).softmax(-1)
            if step == iterations:
                break
            parts = (weights[..., None] * tokens[:, :, None]).flatten(1, 2)  # (B, 9N, C)
            sums = tokens.new_zeros(batch, rows * columns, channels).index_add(1, index, parts)
            mass = tokens.new_zeros(batch, rows * columns).index_add(1, index, weights.flatten(1))
            centres = sums / mass.clamp(min=torch.finfo(mass.dtype).tiny)[..., None]
        own = near.expand(batch, -1, -1).gather(2, weights.argmax(-1, keepdim=True))[..., 0]
        position = torch.arange(x.shape[1], device=x.device).expand(batch, -1)
        first = torch.full((batch, rows * columns), x.shape[1], device=x.device)
        firsts = first.scatter_reduce(1, own, position, "amin").gather(1, own)
        return TokenAssignment.from_firsts(firsts)


@constant_of_grid
def neighbours(
    hw: tuple[int, int], clusters: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """``(N, 9)`` the centres around each token's own, and bool, which lie outside the grid."""
    (h, w), (rows, columns) = hw, clusters
    y = torch.arange(h, device=device) * rows // h
    x = torch.arange(w, device=device) * columns // w
    step = torch.arange(-1, 2, device=device)
    down, along = y[:, None] + step, x[:, None] + step  # (h, 3), (w, 3)
    index = down.clamp(0, rows - 1)[:, None, :, None] * columns
    index = index + along.clamp(0, columns - 1)[None, :, None, :]
    bad_rows, bad_columns = (down < 0) | (down >= rows), (along < 0) | (along >= columns)
    outside = bad_rows[:, None, :, None] | bad_columns[None, :, None, :]
    return index.reshape(h * w, 9), outside.reshape(h * w, 9)
