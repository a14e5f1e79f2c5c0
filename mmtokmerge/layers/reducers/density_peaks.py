"""After AiluRus: patches around representatives found by density on the grid."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmtokmerge.checks import number_in, whole_number
from mmtokmerge.layers.reducers.keeping_share import KeepingShare
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.density_peaks import density_peaks
from mmtokmerge.merging.facility_location import num_destinations


class DensityPeaks(KeepingShare):
    """Patches around representatives found by density on the grid (after AiluRus, Li et al. 2023).

    The paper's text was not at hand beyond its abstract: the distance and the defaults are as its
    description is remembered, see :func:`mmtokmerge.merging.density_peaks.density_peaks`. It merges
    in an early layer, the second of 24; all later layers use the same groups.

    Args:
        keep: Share of the patches that represent.
        reach: How far a token's window reaches, in tokens.
        neighbours: Nearest tokens that make the density.
        alpha: Weight of the place in the distance, 0 to 1.
        **kwargs: Arguments of :class:`Reducer`.
    """

    def __init__(
        self, keep: float, reach: int = 3, neighbours: int = 1, alpha: float = 0.9, **kwargs: Any
    ) -> None:
        super().__init__(keep, **kwargs)
        self.reach = whole_number("reach", reach, 1)
        self.neighbours = whole_number("neighbours", neighbours, 1)
        self.alpha = float(number_in("alpha", alpha, 0, 1))

    def num_groups(self, num_tokens: int, grid: tuple[int, int]) -> int:
        """Tokens that are left of a grid's patches."""
        return num_destinations(grid[0] * grid[1], self.keep)

    def group(self, feature: Tensor, hw: tuple[int, int]) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.density_peaks.density_peaks`."""
        count = self.num_groups(feature.shape[1], hw)
        options: Any = dict(reach=self.reach, neighbours=self.neighbours, alpha=self.alpha)
        return density_peaks(feature, hw, count, **options)
