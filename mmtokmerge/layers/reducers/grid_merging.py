"""After CubistMerge: patches merged along rows and columns into a smaller grid."""

from __future__ import annotations

from torch import Tensor

from mmtokmerge.layers.reducers.keeping_share import KeepingShare
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.grid_merging import grid_merging


class GridMerging(KeepingShare):
    """Patches merged along rows and columns into a smaller grid (CubistMerge, Gong and Lis 2025).

    Which pairs merge, and that merging ends with the network, are ours: the paper's text was not at
    hand beyond its abstract. Its representation of a group, in each channel the value farthest from
    zero, is ``operation='max'``.

    Args:
        keep: Share of the patches that is left, of the same share on both sides.
        **kwargs: Arguments of :class:`Reducer`.
    """

    def num_groups(self, num_tokens: int, grid: tuple[int, int]) -> int:
        """Tokens that are left of a grid's patches."""
        rows, columns = self.coarser(grid)
        return rows * columns

    def group(self, feature: Tensor, hw: tuple[int, int]) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.grid_merging.grid_merging`."""
        return grid_merging(feature, hw, self.coarser(hw))
