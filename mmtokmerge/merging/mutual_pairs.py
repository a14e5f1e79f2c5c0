"""Pairs of tokens that are each other's most similar one (MPM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.merging.assignment import TokenAssignment

ROWS = 1024
"""Rows of similarities that are held at once."""


def mutual_pairs(x: Tensor, present: Tensor | None = None) -> TokenAssignment:
    """Merge every pair of tokens each of which is the other's most similar (MPM, 2604.05718).

    No rate and no threshold: the image decides how many pairs there are, at most half of its
    tokens. Of equally similar ones the first counts.

    Args:
        x: ``(B, N, D)`` whose cosine decides.
        present: ``(B, N)`` bool, False for rows that are padding.

    Returns:
        Groups of one or two, in the order of their first tokens.
    """
    with torch.no_grad():
        unit = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
        tokens = x.shape[1]
        position = torch.arange(tokens, device=x.device)
        hidden = None if present is None else ~present[:, None]
        found = []
        for start in range(0, tokens, ROWS):
            rows = slice(start, min(start + ROWS, tokens))
            cosine = unit[:, rows] @ unit.transpose(1, 2)  # (B, rows, N)
            own = position[rows, None] == position
            cosine = cosine.masked_fill(own if hidden is None else own | hidden, -torch.inf)
            found.append(cosine.argmax(-1))
        best = torch.cat(found, dim=1) if found else position.expand(len(x), 0)
        mutual = best.gather(1, best) == position
        if present is not None:
            mutual = mutual & present & present.gather(1, best)
        mutual = mutual & (best != position)  # of one token the most similar is itself
        firsts = torch.where(mutual, torch.minimum(best, position), position.expand_as(best))
        return TokenAssignment.from_firsts(firsts, present)
