"""Reducers that leave a share of the patches, all at once, on a grid where nothing has merged."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.layers.reducers.base import Reducer, read_share
from mmtokmerge.merging import TokenAssignment


class KeepingShare(Reducer):
    """Leaves a share of the patches, the same number of every image.

    Args:
        keep: Share of the patches that is left as tokens, above 0, at most 1.
        **kwargs: Arguments of :class:`Reducer`.

    Raises:
        ValueError: If ``keep`` is out of range; at the forward, if something merged before.
    """

    def __init__(self, keep: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(self.layers) > 1:
            raise InputError(
                f"{type(self).__name__} merges patches, so it acts in one layer, got {self.layers}"
            )
        self.keep = read_share(keep)

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """Which patches stand together; see the subclass."""
        if assignment is not None:
            name = type(self).__name__
            raise InputError(f"{name} must be the first to merge: name it first")
        return self.group(feature, hw)

    @abstractmethod
    def group(self, feature: Tensor, hw: tuple[int, int]) -> TokenAssignment:
        """The groups of the patches ``(B, h*w, D)`` of the grid ``hw``."""

    def coarser(self, hw: tuple[int, int]) -> tuple[int, int]:
        """The share of a grid that is a grid itself, of the same share on both sides."""
        share = math.sqrt(self.keep)
        h, w = (max(1, round(side * share)) for side in hw)
        return h, w

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keep={self.keep:.4g}"
