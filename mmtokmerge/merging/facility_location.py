"""Destinations that together resemble all tokens of a tile most (after ToMA)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.grid import constant_of_grid


@constant_of_grid
def tiles_of(hw: tuple[int, int], tile: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """The places of the tokens of each tile, ``(T, n)`` for every size of tiles that there is."""
    places = torch.arange(hw[0] * hw[1]).view(hw)
    found: dict[tuple[int, int], list[Tensor]] = {}
    for top in range(0, hw[0], tile):
        for left in range(0, hw[1], tile):
            part = places[top : top + tile, left : left + tile]
            found.setdefault((part.shape[0], part.shape[1]), []).append(part.flatten())
    return [torch.stack(each).to(device) for each in found.values()]


def num_destinations(tokens: int, keep: float) -> int:
    """Destinations of a tile of so many tokens."""
    return max(1, math.ceil(keep * tokens - 1e-6))


def facility_location(
    x: Tensor, hw: tuple[int, int], keep: float, *, tile: int = 8
) -> TokenAssignment:
    """Merge every token into the most similar destination of its tile (after ToMA, 2509.10918).

    In each tile of the grid destinations are chosen one after another, always the token that adds
    most to the sum, over the tile's tokens, of the cosine with their most similar destination: the
    greedy solution of facility location, at least ``1 - 1/e`` of the best.

    Args:
        x: Tokens ``(B, h*w, C)``.
        hw: The grid ``(h, w)``.
        keep: Share of a tile's tokens that become destinations, rounded up.
        tile: Side of a tile in tokens; tiles at the lower and right edge may be smaller.

    Returns:
        Groups in the order of their first tokens, as many for every image.

    Raises:
        ValueError: The grid does not hold the tokens.
    """
    batch, tokens, _ = x.shape
    if hw[0] * hw[1] != tokens:
        raise InputError(f"the grid {hw} must hold {tokens} tokens")
    with torch.no_grad():
        unit = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
        root = torch.arange(tokens, device=x.device).repeat(batch, 1)
        total = 0
        for places in tiles_of(hw, tile, x.device):
            count = num_destinations(places.shape[1], keep)
            total += count * len(places)
            part = unit[:, places]  # (B, T, n, C)
            chosen = _choose(part @ part.transpose(2, 3), count)  # (B, T, n), places in the tile
            own = places.expand(batch, -1, -1).gather(2, chosen)
            root[:, places.flatten()] = own.flatten(1)
        position = torch.arange(tokens, device=x.device).expand_as(root)
        first = torch.full_like(root, tokens).scatter_reduce(1, root, position, "amin")
        return TokenAssignment.from_firsts(first.gather(1, root), num_groups=total)


def _choose(cosine: Tensor, count: int) -> Tensor:
    """``(B, T, n)`` the destination of each token, from ``(B, T, n, n)`` cosines."""
    best = torch.full_like(cosine[..., 0], -1.0)  # of each token with the destinations so far
    taken = torch.zeros_like(best, dtype=torch.bool)
    for _ in range(count):
        gain = (cosine - best[..., None]).clamp(min=0).sum(2)  # (B, T, n), of each candidate
        pick = gain.masked_fill(taken, -torch.inf).argmax(-1, keepdim=True)
        taken = taken.scatter(2, pick, torch.ones_like(pick, dtype=torch.bool))
        with_it = cosine.gather(3, pick[..., None, :].expand(*cosine.shape[:3], 1))[..., 0]
        best = torch.maximum(best, with_it)
    to = cosine.masked_fill(~taken[..., None, :], -torch.inf).argmax(-1)
    return torch.where(taken, torch.arange(to.shape[-1], device=to.device).expand_as(to), to)
