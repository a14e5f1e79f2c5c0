"""MPM: pairs of tokens that are each other's most similar one."""

from __future__ import annotations

from torch import Tensor

from mmtokmerge.layers.reducers.base import Reducer, sizes_if_padded
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.mutual_pairs import mutual_pairs


class MutualPairMerging(Reducer):
    """Merges mutual nearest neighbours, without rate or threshold (Rave et al. 2026, MPM).

    Every layer that it is named for leaves between half and all of the tokens, as the image
    decides. The paper inserts it ahead of two layers of twelve; a description names the second and
    the fifth, which is ``layer=[1, 4], position='after'`` here. Its pairs are plain means; here a
    token weighs by the patches that it stands for, as in all reducers.

    Args are those of :class:`Reducer`.
    """

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.mutual_pairs.mutual_pairs`."""
        sizes = sizes_if_padded(assignment, len(feature))
        return mutual_pairs(feature, None if sizes is None else sizes > 0)
