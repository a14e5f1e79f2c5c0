"""EViT: what the class token hardly looks at becomes one token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.layers.reducers.base import CLASS_ATTENTION, Reducer, read_share, refuse_padded
from mmtokmerge.merging import TokenAssignment


class EViT(Reducer):
    """Keeps the tokens that the class token attends to, fuses the others (Liang et al. 2022).

    The fused token is the mean of its members weighted by that attention, the mean over the heads.
    For dense prediction every patch in it takes its result, as where anything else merges.

    Args:
        keep: Share of the tokens that reach a layer which stay, rounded up.
        layer: Layers, counted from 1; the paper's are 4, 7 and 10 of 12.
        **kwargs: Arguments of :class:`Reducer`, but ``feature`` and ``operation``.

    Raises:
        ValueError: If ``keep`` is not above 0; at the forward, if the network has no class token or
            images keep different numbers of tokens before it.
    """

    def __init__(self, keep: float, layer: int | Sequence[int], **kwargs: Any) -> None:
        super().__init__(layer=layer, **kwargs)
        if self.feature != "X" or self.operation != "mean":
            raise InputError("EViT takes neither feature nor operation: both are its own")
        self.feature = CLASS_ATTENTION
        self.keep = read_share(keep)

    def num_groups(self, num_tokens: int, grid: tuple[int, int]) -> int:
        """Tokens that one of its layers leaves of ``num_tokens``."""
        return min(num_tokens, math.ceil(self.keep * num_tokens) + 1)

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """The most attended tokens alone, and all others together."""
        refuse_padded(self, assignment)
        batch, tokens, _ = feature.shape
        left = self.num_groups(tokens, hw)
        if left == tokens:
            return TokenAssignment.identity(tokens, feature.device)
        chosen = feature[..., 0].topk(left - 1, dim=1, sorted=False).indices
        position = torch.arange(tokens, device=feature.device).expand(batch, -1)
        stays = torch.zeros_like(position, dtype=torch.bool)
        stays = stays.scatter(1, chosen, torch.ones_like(chosen, dtype=torch.bool))
        first = position.masked_fill(stays, tokens).amin(1, keepdim=True)
        firsts = torch.where(stays, position, first)
        return TokenAssignment.from_firsts(firsts, num_groups=left)

    def weights(self, feature: Tensor, sizes: Tensor | None) -> Tensor:
        """The attention, of the class token, that each token has; not their sizes."""
        return feature[..., 0]

    def extra_repr(self) -> str:
        return f"layer={self.layers}, position={self.position!r}, keep={self.keep:.4g}"
