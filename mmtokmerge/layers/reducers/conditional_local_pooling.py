"""CLAP: conditional local average pooling."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmtokmerge.layers.reducers.base import ThresholdReducer
from mmtokmerge.merging import TokenAssignment, local_pooling
from mmtokmerge.merging.local_pooling import check_window


class ConditionalLocalPooling(ThresholdReducer):
    """Merges the windows of the grid whose tokens are similar (ALGM, section 3.3, CLAP).

    Args:
        window: Window in tokens, an int for both sides or (h, w).
        **kwargs: Arguments of :class:`ThresholdReducer`.
    """

    def __init__(self, window: int | tuple[int, int] = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = check_window(window)

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.local_pooling`."""
        return local_pooling(
            feature,
            hw,
            window=self.window,
            threshold=self.threshold,
            given=assignment,
            share_count=self.shares_count,
            most=self.most(hw),
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, window={self.window}"
