"""Cosine similarity of tokens with the few tokens that they may merge into."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.kernels.gpu.operators import most_similar_triton
from mmtokmerge.kernels.gpu.switch import use_triton
from mmtokmerge.kernels.linear import products
from mmtokmerge.kernels.recording import is_exported

# Scores held at once; more tokens are compared in slices, which bounds the memory, and on a CPU
# keeps them in the cache.
MAX_SCORES = 2**25
MAX_SCORES_OF_CPU = 2**21
EPSILON = 1e-12


def most_similar(
    x: Tensor, destinations: Tensor, absent: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find each token's most similar destination by cosine (Segformer++, equation 1).

    Only the destinations are normalised before the product: a token's own length changes none of
    its comparisons, and divides its best score afterwards. On a GPU a kernel of
    Triton keeps no scores in memory, see :func:`mmtokmerge.kernels.gpu.switch.use_triton`.

    Args:
        x: Tokens ``(B, N, C)``.
        destinations: ``(B, D, C)``, D at least 1.
        absent: ``(B, D)`` bool, destinations that are none; their cosine counts as -inf.

    Returns:
        The cosine ``(B, N)``, at most 1, in fp32 at least, and the index ``(B, N)`` of the best
        destination.
    """
    if use_triton(x, destinations):
        return most_similar_triton(x, destinations, absent)
    batch = x.shape[0]
    targets = unit_rows(destinations)
    most = min(MAX_SCORES, MAX_SCORES_OF_CPU) if x.device.type == "cpu" else MAX_SCORES
    step = max(1, most // max(1, batch * targets.shape[1]))
    # A number of slices would bind an export to one batch: the runtime bounds its own memory.
    parts = (x,) if is_exported() else torch.split(x, step, dim=1)
    best = [_best_score(part, targets, absent) for part in parts]
    score = torch.cat([values for values, _ in best], dim=1) if len(best) > 1 else best[0][0]
    index = torch.cat([indices for _, indices in best], dim=1) if len(best) > 1 else best[0][1]
    return cosine(score, x), index


def unit_rows(x: Tensor) -> Tensor:
    """Rows of ``x (..., C)`` at length 1, in the dtype of ``x``; rows of zeros stay."""
    precision = torch.promote_types(x.dtype, torch.float32)
    unit: Tensor = F.normalize(x.to(precision), dim=-1, eps=EPSILON)
    return unit.to(x.dtype)


def cosine(score: Tensor, x: Tensor) -> Tensor:
    """Cosine, at most 1 and in fp32 at least, from products ``(B, N)`` of ``x`` with unit rows."""
    precision = torch.promote_types(x.dtype, torch.float32)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, dtype=precision)
    return (score.to(precision) / length.clamp(min=EPSILON)).clamp(max=1)


def _best_score(x: Tensor, targets: Tensor, absent: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = products(x, targets)  # (B, N, D)
    if absent is not None:
        scores = scores.masked_fill(absent[:, None], -torch.inf)
    best = scores.max(dim=-1)
    return best.values, best.indices
