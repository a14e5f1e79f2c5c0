"""ToMe: the same number of tokens merged in each layer, the comparison of ALGM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmtokmerge.checks import number_in, whole_number
from mmtokmerge.errors import InputError
from mmtokmerge.layers.reducers.base import Reducer, refuse_padded
from mmtokmerge.merging import TokenAssignment, match_by_count


class ToMe(Reducer):
    """Merges a fixed number of tokens in each of its layers (Bolya et al. 2023; ALGM, table 1).

    ToMe compares keys and weighs merged tokens in the attention: set ``proportional=True`` in the
    backbone.

    Args:
        num_merged: Tokens that merge away in each layer.
        layer: Layers, counted from 1.
        feature: What is compared, see :class:`Reducer`.
        rate: Instead of ``num_merged``: the share of the tokens that reach a layer which merge away
            in it, at most a half.
        **kwargs: Arguments of :class:`Reducer`.

    Raises:
        TypeError: If ``num_merged`` is not an int.
        ValueError: If it is below 1, or not exactly one of it and ``rate`` is given; at the
            forward, if a layer has fewer than twice as many tokens, or images keep different
            numbers of tokens before it.
    """

    def __init__(
        self,
        num_merged: int | None = None,
        *,
        layer: int | Sequence[int],
        feature: str = "K",
        rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer=layer, feature=feature, **kwargs)
        if (num_merged is None) == (rate is None):
            raise InputError(f"ToMe takes num_merged or rate, got {num_merged!r} and {rate!r}")
        if num_merged is not None:
            whole_number("num_merged", num_merged, 1)
        if rate is not None and number_in("rate", rate, 0, 0.5) == 0:
            raise InputError("rate=0 of ToMe merges nothing")
        self.num_merged = num_merged
        self.rate = rate

    def num_groups(self, num_tokens: int, grid: tuple[int, int]) -> int:
        """Tokens that one of its layers leaves of ``num_tokens``."""
        return num_tokens - self.count(num_tokens)

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.match_by_count`."""
        refuse_padded(self, assignment)
        count = self.count(feature.shape[1])
        if count > feature.shape[1] // 2:
            raise InputError(
                f"num_merged={count} of ToMe cannot be reached: only half of the "
                f"{feature.shape[1]} tokens can merge in one layer"
            )
        return match_by_count(feature, count)

    def count(self, num_tokens: int) -> int:
        """How many of a layer's tokens merge."""
        if self.num_merged is not None:
            return self.num_merged
        return int(num_tokens * (self.rate or 0))

    def extra_repr(self) -> str:
        setting = (
            f"rate={self.rate}" if self.num_merged is None else f"num_merged={self.num_merged}"
        )
        return f"{super().extra_repr()}, {setting}"
