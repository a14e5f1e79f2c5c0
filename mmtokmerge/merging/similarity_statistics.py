"""Mean and standard deviation of the cosine similarities of all token pairs, streamed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.kernels.similarity import EPSILON


class CosineStatistics:
    """Mean and standard deviation over all pairs of different tokens of one image, many images.

    ALGM, section 3.3, sets its threshold to their sum. No token pair is held: for unit tokens X of
    an image the cosines of all pairs sum to |sum of X|^2 less the N pairs of a token with itself,
    their squares to |X^T X|^2. Images are joined by the update of Chan et al. in float64, which
    stays exact over any number of pairs.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0  # sum of squared distances from the mean

    @property
    def count(self) -> int:
        """How many pairs were seen; (i, j) and (j, i) are one."""
        return self._count

    @property
    def mean(self) -> float:
        """Mean cosine; nan where no pair was seen."""
        return self._mean if self._count else math.nan

    @property
    def std(self) -> float:
        """Standard deviation of the cosines (of the population); nan where no pair was seen."""
        return math.sqrt(self._squares / self._count) if self._count else math.nan

    def update(self, tokens: Tensor, sizes: Tensor | None = None) -> None:
        """Add the pairs within each image; tokens of two images are no pair.

        Args:
            tokens: ``(B, M, C)`` without class token. A token of zeros has cosine 0 with all.
            sizes: ``(B, M)`` tokens that each row stands for. Rows of size 0 are padding and left
                out; every other row counts once, however many tokens it holds.

        Raises:
            ValueError: If the shapes are others.
        """
        if tokens.dim() != 3 or (sizes is not None and sizes.shape != tokens.shape[:2]):
            held = None if sizes is None else tuple(sizes.shape)
            raise ValueError(
                f"CosineStatistics takes tokens (B, M, C) and sizes (B, M) or None, "
                f"got {tuple(tokens.shape)} and {held}"
            )
        for count, total, squares in _pair_sums(tokens.detach(), sizes).tolist():
            if count:
                mean = total / count
                self._join(int(count), mean, max(0.0, squares - total * mean))

    def merge(self, other: CosineStatistics) -> None:
        """Add all that ``other`` has seen."""
        if other._count:
            self._join(other._count, other._mean, other._squares)

    def _join(self, count: int, mean: float, squares: float) -> None:
        total = self._count + count
        shift = mean - self._mean
        self._mean += shift * count / total
        self._squares += squares + shift * shift * self._count * count / total
        self._count = total


def _pair_sums(tokens: Tensor, sizes: Tensor | None) -> Tensor:
    """``(B, 3)`` float64: pairs of each image, sum of their cosines, sum of their squares."""
    present = torch.ones_like(tokens[..., 0], dtype=torch.bool) if sizes is None else sizes > 0
    tokens = tokens.double().masked_fill(~present[..., None], 0)
    unit = F.normalize(tokens, dim=-1, eps=EPSILON)  # (B, M, C)
    number = present.sum(1)  # (B,)
    own = unit.square().sum(-1)  # (B, M), 1 except for zeros
    across = unit.mT if unit.shape[1] > unit.shape[2] else unit
    gram = across @ across.mT  # (B, C, C) or (B, M, M), of the same norm
    total = unit.sum(1).square().sum(-1) - own.sum(1)
    squares = gram.square().sum((1, 2)) - own.square().sum(1)
    return torch.stack([number * (number - 1), total, squares], dim=1) / 2
