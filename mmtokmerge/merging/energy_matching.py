"""PiToMe's matching: tokens of large clusters merge, isolated ones are left alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.merging.assignment import TokenAssignment


def energy(x: Tensor, margin: float, alpha: float = 1.0) -> Tensor:
    """How many tokens each token resembles (PiToMe, NeurIPS 2024, equation 4).

    The mean over the other tokens of ``f(cos)``, where ``f(c) = c`` from ``margin`` up and
    ``alpha * (exp(c - margin) - 1)`` below.

    Args:
        x: ``(B, N, D)``, N at least 2.
        margin: m.
        alpha: Weight of what lies below it.

    Returns:
        ``(B, N)``, high within large clusters.
    """
    unit = F.normalize(x, dim=-1)
    cosine = unit @ unit.transpose(1, 2)  # (B, N, N)
    scores = torch.where(cosine >= margin, cosine, alpha * torch.expm1(cosine - margin))
    others = scores.sum(-1) - scores.diagonal(dim1=1, dim2=2)
    return others / (x.shape[1] - 1)


def energy_matching(
    x: Tensor, count: int, *, margin: float = 0.5, alpha: float = 1.0
) -> TokenAssignment:
    """Merge ``count`` tokens among the ``2 * count`` of highest energy (PiToMe, section 3.2).

    These, in the order of their energy, are sources and destinations by turns; each source merges
    into its most similar destination. All others stay alone. Groups keep the order of their first
    token.

    Args:
        x: ``(B, N, D)`` whose cosine decides.
        count: Tokens that merge away, from 0 to ``N // 2``.
        margin: See :func:`energy`.
        alpha: See :func:`energy`.

    Raises:
        ValueError: If ``count`` cannot be reached.
    """
    batch, tokens, _ = x.shape
    if not 0 <= count <= tokens // 2:
        raise InputError(f"count={count} cannot be reached: {tokens} tokens have {tokens // 2}")
    if count == 0:
        return TokenAssignment.identity(tokens, x.device)
    with torch.no_grad():
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        order = energy(precise, margin, alpha).argsort(dim=1, descending=True, stable=True)
        sources, targets = order[:, : 2 * count : 2], order[:, 1 : 2 * count : 2]  # (B, count)
        unit = F.normalize(precise, dim=-1)
        width = (-1, -1, unit.shape[-1])
        taken = (unit.gather(1, each[..., None].expand(width)) for each in (sources, targets))
        best = (next(taken) @ next(taken).transpose(1, 2)).argmax(-1)
        position = torch.arange(tokens, device=x.device).expand(batch, -1)
        root = position.scatter(1, sources, targets.gather(1, best))
        firsts = position.scatter_reduce(1, root, position, "amin").gather(1, root)
        return TokenAssignment.from_firsts(firsts, num_groups=tokens - count)
