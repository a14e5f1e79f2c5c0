"""A plain ViT's position embeddings, fitted to its grid whichever way weights come in."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from mmtokmerge.models.backbones.position_embedding import read_pos_embed, without_distillation
from mmtokmerge.models.weights.grids import GRID_KEY


class FitsPositions(nn.Module):
    """A mixin of plain ViTs: their ``positions`` have a grid, which a checkpoint's may not have."""

    positions: Any
    with_dist_token: bool

    def _fit_published(
        self, weights: dict[str, Tensor], grid: tuple[int, int] | None = None
    ) -> None:
        """Change a published checkpoint's weights, in place, where this grid needs others."""
        distilled = weights.pop("dist_token", None) if not self.with_dist_token else None
        if distilled is not None and "pos_embed" in weights:
            weights["pos_embed"] = without_distillation(weights["pos_embed"])
        if "pos_embed" in weights:
            self.fit_positions(weights, "", grid, published=True)

    def fit_positions(
        self,
        weights: dict[str, Tensor],
        prefix: str,
        grid: tuple[int, int] | None = None,
        published: bool = False,
    ) -> tuple[int, int] | None:
        """Resize a checkpoint's position embeddings to this grid, in place.

        Their own grid is what the checkpoint says. One that does not say is taken for square where
        it comes from pretraining, whose crops are, or has another number of patches.

        Args:
            weights: A state dict.
            prefix: The prefix of this backbone's keys in it.
            grid: The grid that the checkpoint says.
            published: Whether the checkpoint is a pretrained backbone of somebody else's.

        Returns:
            The grid that they were taken for where nobody says it, else None.
        """
        found = weights.get(f"{prefix}pos_embed")
        if found is None:
            return None
        count = found.shape[1] - self.positions.num_prefix if found.dim() == 3 else -1
        own = self.positions.grid
        square = count > 0 and math.isqrt(count) ** 2 == count
        said = grid is not None
        if not said and count == own[0] * own[1] and not (published and square):
            grid = own
        if grid != own:
            weights[f"{prefix}pos_embed"] = read_pos_embed(found, self.positions, grid)
        if said:
            return None
        side = math.isqrt(max(count, 0))
        return grid or ((side, side) if square else None)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.fit_positions(state_dict, prefix, local_metadata.get(GRID_KEY))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)
