"""GBM: global bipartite merging."""

from __future__ import annotations

from torch import Tensor

from mmtokmerge.merging import TokenAssignment, bipartite_matching
from mmtokmerge.models.reducers.base import ThresholdReducer
from mmtokmerge.registry import MODELS


@MODELS.register_module()
class GlobalBipartiteMerging(ThresholdReducer):
    """Merges similar tokens of the whole image (ALGM, section 3.3, GBM).

    Args are those of :class:`ThresholdReducer`.
    """

    def match(
        self, feature: Tensor, given: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.bipartite_matching`, by threshold."""
        padded = given is not None and given.padded
        return bipartite_matching(
            feature,
            threshold=self.threshold,
            sizes=given.sizes.expand(len(feature), -1) if padded else None,  # type: ignore[union-attr]
            share_count=self.shares_count,
        )
