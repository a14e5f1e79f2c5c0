"""ToMe: the same number of tokens merged in each layer, the comparison of ALGM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.layers.reducers.base import Reducer
from mmtokmerge.merging import TokenAssignment, bipartite_matching


class ToMe(Reducer):
    """Merges a fixed number of tokens in each of its layers (Bolya et al. 2023; ALGM, table 1).

    ToMe compares keys and weighs merged tokens in the attention: set ``proportional=True`` in the
    backbone.

    Args:
        num_merged: Tokens that merge away in each layer.
        layer: Layers, counted from 1.
        feature: What is compared, see :class:`Reducer`.
        **kwargs: Arguments of :class:`Reducer`.

    Raises:
        TypeError: If ``num_merged`` is not an int.
        ValueError: If it is below 1; at the forward, if a layer has fewer than twice as many
            tokens, or images keep different numbers of tokens before it.
    """

    def __init__(
        self, num_merged: int, layer: int | Sequence[int], feature: str = "K", **kwargs: Any
    ) -> None:
        super().__init__(layer=layer, feature=feature, **kwargs)
        if isinstance(num_merged, bool) or not isinstance(num_merged, int):
            raise InputTypeError(f"num_merged must be an int, got {num_merged!r}")
        if num_merged < 1:
            raise InputError(f"num_merged must be at least 1, got {num_merged}")
        self.num_merged = num_merged

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.bipartite_matching`, by count."""
        if assignment is not None and assignment.padded:
            raise InputError(
                "ToMe merges the same number of tokens of every image, but a reducer before it "
                "left the images of this batch with different numbers: use batches of 1"
            )
        if self.num_merged > feature.shape[1] // 2:
            raise InputError(
                f"num_merged={self.num_merged} of ToMe cannot be reached: only half of the "
                f"{feature.shape[1]} tokens can merge in one layer"
            )
        return bipartite_matching(feature, count=self.num_merged)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_merged={self.num_merged}"
