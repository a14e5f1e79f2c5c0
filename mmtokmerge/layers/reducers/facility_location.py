"""After ToMA: patches merged into destinations that resemble their tile best."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmtokmerge.checks import whole_number
from mmtokmerge.layers.reducers.keeping_share import KeepingShare
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.facility_location import facility_location, num_destinations, tiles_of


class FacilityLocation(KeepingShare):
    """Patches merged into destinations that resemble their tile best (after ToMA, Lu et al. 2025).

    The paper merges softly, by an attention over destinations, around each block of a diffusion
    model; here each patch goes to its most similar destination, and stays there.

    Args:
        keep: Share of each tile's patches that become destinations.
        tile: Side of a tile in patches.
        **kwargs: Arguments of :class:`Reducer`.
    """

    def __init__(self, keep: float, tile: int = 8, **kwargs: Any) -> None:
        super().__init__(keep, **kwargs)
        self.tile = whole_number("tile", tile, 1)

    def num_groups(self, num_tokens: int, grid: tuple[int, int]) -> int:
        """Tokens that are left of a grid's patches."""
        return sum(
            len(each) * num_destinations(each.shape[1], self.keep)
            for each in tiles_of(grid, self.tile)
        )

    def group(self, feature: Tensor, hw: tuple[int, int]) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.facility_location.facility_location`."""
        return facility_location(feature, hw, self.keep, tile=self.tile)
