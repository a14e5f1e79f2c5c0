"""GBM: global bipartite merging."""

from __future__ import annotations

from torch import Tensor

from mmtokmerge.layers.reducers.base import ThresholdReducer
from mmtokmerge.merging import TokenAssignment, match_by_threshold


class GlobalBipartiteMerging(ThresholdReducer):
    """Merges similar tokens of the whole image (ALGM, section 3.3, GBM).

    Args are those of :class:`ThresholdReducer`.
    """

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.match_by_threshold`."""
        sizes = None
        if assignment is not None and assignment.padded:
            sizes = assignment.sizes.expand(len(feature), -1)
        return match_by_threshold(
            feature,
            self.threshold,
            sizes=sizes,
            share_count=self.shares_count,
            most=self.most(hw),
        )
