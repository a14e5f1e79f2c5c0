"""Representatives by density peaks among neighbours on the grid (after AiluRus)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.grid import constant_of_grid


def density_peaks(
    x: Tensor,
    hw: tuple[int, int],
    count: int,
    *,
    reach: int = 3,
    neighbours: int = 1,
    alpha: float = 0.9,
) -> TokenAssignment:
    """Group the tokens of a grid around ``count`` representatives (after AiluRus, 2311.01197).

    The distance of a token to another within its window is ``(1 - alpha)`` times that of their
    features plus ``alpha`` times the other's rank among the window by distance on the grid, from 0
    to 1; outside the window it is infinite. A token's density is ``exp`` of minus its mean distance
    to its nearest ``neighbours``; its separation the distance to the nearest denser token, infinite
    where its window has none. The tokens whose product of both is largest represent; every other
    goes to the nearest representative, where the place of one outside its window counts as 1.

    Args:
        x: Tokens ``(B, h*w, C)``.
        hw: The grid ``(h, w)``.
        count: Representatives, from 1 to ``h * w``.
        reach: How far the window reaches to each side, in tokens.
        neighbours: How many nearest tokens make the density.
        alpha: Weight of the place, 0 to 1.

    Returns:
        ``count`` groups, in the order of their first tokens.

    Raises:
        ValueError: The grid does not hold the tokens, or ``count`` is out of range.
    """
    batch, tokens, _ = x.shape
    if hw[0] * hw[1] != tokens or not 1 <= count <= tokens:
        raise InputError(f"count={count} must be from 1 to {tokens}, held by the grid {hw}")
    with torch.no_grad():
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        near, rank, outside = windows(hw, reach, x.device)  # (N, W) each
        width = near.shape[1]
        apart = torch.stack(  # (B, N, W), a neighbour at a time: all at once are W times the map
            [(values.index_select(1, each) - values).norm(dim=-1) for each in near.unbind(1)], -1
        )
        distance = (1 - alpha) * apart + alpha * rank
        distance = distance.masked_fill(outside, torch.inf)  # (B, N, W)
        nearest = distance.topk(min(neighbours, width), dim=-1, largest=False).values
        known = nearest.isfinite()
        mean = nearest.masked_fill(~known, 0).sum(-1) / known.sum(-1).clamp(min=1)
        density = torch.exp(-mean)
        position = torch.arange(tokens, device=x.device)
        theirs = density.gather(1, near.flatten().expand(batch, -1)).unflatten(1, near.shape)
        denser = theirs > density[..., None]
        denser |= (theirs == density[..., None]) & (near < position[:, None])
        separation = distance.masked_fill(~denser, torch.inf).amin(-1)
        # infinite separations come first, the densest of them ahead
        far = separation.isinf()
        score = density * separation.masked_fill(far, 0)
        score = torch.where(far, density + 1 + score.amax(1, keepdim=True), score)
        chosen = score.argsort(dim=1, descending=True, stable=True)[:, :count]
        stands = torch.zeros(batch, tokens, dtype=torch.bool, device=x.device)
        stands = stands.scatter(1, chosen, torch.ones_like(chosen, dtype=torch.bool))
        there = stands.gather(1, near.flatten().expand(batch, -1)).unflatten(1, near.shape)
        within = distance.masked_fill(~there, torch.inf)
        local = near.expand(batch, -1, -1).gather(2, within.argmin(-1, keepdim=True))[..., 0]
        ordered = chosen.sort(dim=1).values
        centres = values.gather(1, ordered[..., None].expand(-1, -1, values.shape[2]))
        far, best = ((1 - alpha) * torch.cdist(values, centres) + alpha).min(-1)
        own = torch.where(within.amin(-1) <= far, local, ordered.gather(1, best))
        own = torch.where(stands, position.expand_as(own), own)
        first = torch.full_like(own, tokens).scatter_reduce(1, own, position.expand_as(own), "amin")
        return TokenAssignment.from_firsts(first.gather(1, own), num_groups=count)


@constant_of_grid
def windows(hw: tuple[int, int], reach: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """``(N, W)`` the tokens around each, their ranks from 0 to 1, and which lie outside."""
    h, w = hw
    step = torch.arange(-reach, reach + 1, device=device)
    dy, dx = (each.flatten() for each in torch.meshgrid(step, step, indexing="ij"))
    away = dy.square() + dx.square()
    order = away.argsort(stable=True)[1:]  # the token itself comes first
    dy, dx = dy[order], dx[order]
    y = torch.arange(h, device=device).repeat_interleave(w)[:, None] + dy
    x = torch.arange(w, device=device).repeat(h)[:, None] + dx
    outside = (y < 0) | (y >= h) | (x < 0) | (x >= w)
    near = y.clamp(0, h - 1) * w + x.clamp(0, w - 1)
    rank = torch.arange(1, len(order) + 1, device=device) / len(order)
    return near, rank.expand(len(near), -1), outside
