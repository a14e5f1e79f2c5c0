"""What a plain ViT hands to a decoder on tokens: the kept tokens and where they stand."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmtokmerge.layers.layout import to_map
from mmtokmerge.merging import TokenAssignment


@dataclass(frozen=True, eq=False)
class TokenFeatures:
    """Tokens after merging, with the map back to the grid of patches.

    Args:
        tokens: ``(B, M, C)``, one row for each group of patches; the class token is not among them.
        assignment: Which patch stands in which group, from ``N = h * w`` patches to M groups.
        hw: The grid ``(h, w)`` of the patches.
        cls_token: ``(B, 1, C)`` the class token, None where the backbone has none.
    """

    tokens: Tensor
    assignment: TokenAssignment
    hw: tuple[int, int]
    cls_token: Tensor | None = None

    @property
    def key_mask(self) -> Tensor | None:
        """``(B, M)`` bool, True where a row holds a token, not padding; None if all rows do."""
        if not self.assignment.padded:
            return None
        return self.assignment.sizes > 0

    def to_map(self, y: Tensor | None = None) -> Tensor:
        """Unmerge ``y (B, M, D)``, the tokens themselves if None, to a map ``(B, D, h, w)``."""
        rows = self.tokens if y is None else y
        return to_map(self.assignment.unmerge(rows), self.hw)
