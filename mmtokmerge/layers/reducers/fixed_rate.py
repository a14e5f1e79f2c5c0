"""Local, then global merging at a fixed rate: every image keeps the same number of tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.layers.reducers.base import Reducer, read_share, refuse_padded
from mmtokmerge.merging import TokenAssignment, local_pooling, match_by_count
from mmtokmerge.merging.local_pooling import check_window


class LocalMergingByRate(Reducer):
    """CLAP's windows, the most similar of them, so many that a share of the patches is left.

    The shapes do not depend on the image, so that what it is in compiles and exports. Tokens
    outside full windows stay single, so that of a small or odd grid more than the share may be
    left. The similarity of a window is that of :func:`mmtokmerge.merging.local_pooling`.

    Args:
        keep: Share of the patches that is left as tokens, at least ``1 / (h * w)`` of the window.
        window: Window in tokens, an int for both sides or (h, w).
        **kwargs: Arguments of :class:`Reducer`.

    Raises:
        ValueError: If ``keep`` cannot be reached; at the forward, if something merged before.
    """

    def __init__(self, keep: float, window: int | tuple[int, int] = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = check_window(window)
        self.keep = read_share(keep)
        size = self.window[0] * self.window[1]
        if self.keep < 1 / size:
            raise InputError(
                f"keep={keep} cannot be reached: a window of {size} tokens leaves one, so keep is "
                f"at least {1 / size:.4g}"
            )

    def num_groups(self, num_tokens: int, grid: tuple[int, int]) -> int:
        """Tokens that are left of a grid's patches."""
        return num_tokens - self._count(grid) * (self.window[0] * self.window[1] - 1)

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.local_pooling`, by count."""
        if assignment is not None:
            raise InputError("LocalMergingByRate must be the first to merge: name it first")
        return local_pooling(feature, hw, window=self.window, count=self._count(hw))

    def _count(self, grid: tuple[int, int]) -> int:
        """Windows that merge: each takes all of its tokens but one."""
        wanted = int((1 - self.keep) * grid[0] * grid[1]) // (self.window[0] * self.window[1] - 1)
        return min(wanted, (grid[0] // self.window[0]) * (grid[1] // self.window[1]))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keep={self.keep:.4g}, window={self.window}"


class GlobalMergingByRate(Reducer):
    """GBM's matching, the most similar pairs, so many that a share of the patches is left.

    Args:
        keep: Share of the patches, not of the tokens that reach it, that is left.
        **kwargs: Arguments of :class:`Reducer`.

    Raises:
        ValueError: At the forward, if more than half of the tokens would have to merge, or images
            keep different numbers before it.
    """

    def __init__(self, keep: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keep = read_share(keep)

    def num_groups(self, num_tokens: int, grid: tuple[int, int]) -> int:
        """Tokens that are left of ``num_tokens``."""
        return min(num_tokens, max(1, round(self.keep * grid[0] * grid[1])))

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.match_by_count`."""
        refuse_padded(self, assignment)
        tokens = feature.shape[1]
        left = self.num_groups(tokens, hw)
        if left < tokens // 2:
            raise InputError(
                f"keep={self.keep:.4g} of GlobalMergingByRate cannot be reached: {left} of "
                f"{hw[0] * hw[1]} patches are to be left, but only half of the {tokens} tokens "
                "that reach it can merge"
            )
        return match_by_count(feature, tokens - left)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keep={self.keep:.4g}"
