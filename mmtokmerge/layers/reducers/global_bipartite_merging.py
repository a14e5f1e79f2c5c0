"""GBM: global bipartite merging."""

from __future__ import annotations

from torch import Tensor

from mmtokmerge.layers.reducers.base import ThresholdReducer, sizes_if_padded
from mmtokmerge.merging import TokenAssignment, match_by_threshold


class GlobalBipartiteMerging(ThresholdReducer):
    """Merges similar tokens of the whole image (ALGM, section 3.3, GBM).

    Args are those of :class:`ThresholdReducer`.
    """

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.match_by_threshold`."""
        return match_by_threshold(
            feature,
            self.threshold,
            sizes=sizes_if_padded(assignment, len(feature)),
            share_count=self.shares_count,
            most=self.most(hw),
        )
