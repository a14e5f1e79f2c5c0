"""One way of merging the tokens of a grid, and what a stage merges around its attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.bilinear_pooling import bilinear_pooling
from mmtokmerge.merging.bipartite import DESTINATIONS, MATCHES, bipartite_matching, merged_tokens
from mmtokmerge.merging.grid import clip
from mmtokmerge.merging.neighbour_pooling import neighbour_pooling
from mmtokmerge.merging.neighbourhood import AROUND, comparisons_around

UNMERGES = ("copy", "bilinear")


@dataclass(frozen=True)
class Matcher:
    """One way of merging the tokens of a grid, fixed by a config.

    Args:
        mode: 'bsm' (bipartite soft matching by rate), 'n1d' or 'n2d' (neighbours).
        stride: Destination cell or pooling cell ``(sy, sx)``; ``(1, k)`` for 'n1d'.
        rate: Fraction of tokens removed, 'bsm' only.
        destination: Which token of a cell is the destination, 'bsm' only.
        match: Which destinations a token is compared with, 'bsm' only.
        unmerge: How tokens come back, 'copy' or 'bilinear' for 'n2d', 'copy' for all else.
    """

    mode: str
    stride: tuple[int, int]
    rate: float = 0.0
    destination: str = DESTINATIONS[0]
    match: str = MATCHES[0]
    unmerge: str = UNMERGES[0]

    def assign(self, x: Tensor, hw: tuple[int, int]) -> TokenAssignment:
        """Group the tokens ``x (B, N, C)`` of the grid ``hw``."""
        if self.mode == "bsm":
            return bipartite_matching(
                x,
                hw,
                rate=self.rate,
                stride=self.stride,
                destination=self.destination,
                match=self.match,
            )
        pool = bilinear_pooling if self.unmerge == "bilinear" else neighbour_pooling
        return pool(self._cell_grid(hw), kernel=self.stride, device=x.device)

    def num_groups(self, hw: tuple[int, int]) -> int:
        """How many groups :meth:`assign` makes of the grid ``hw``."""
        if self.mode == "bsm":
            return hw[0] * hw[1] - merged_tokens(hw, self.rate, self.stride)
        h, w = self._cell_grid(hw)
        sy, sx = clip(self.stride, (h, w))
        return -(-h // sy) * -(-w // sx)

    def num_destinations(self, hw: tuple[int, int]) -> int:
        """How many destinations each token of the grid ``hw`` is compared with."""
        if self.mode != "bsm" or merged_tokens(hw, self.rate, self.stride) == 0:
            return 0
        if self.match == "local":
            return AROUND
        sy, sx = clip(self.stride, hw)
        return (hw[0] // sy) * (hw[1] // sx)

    def num_comparisons(self, hw: tuple[int, int]) -> int:
        """How many cosines :meth:`assign` takes on the grid ``hw``."""
        destinations = self.num_destinations(hw)
        if destinations > 0 and self.match == "local":
            return comparisons_around(hw, clip(self.stride, hw))
        return hw[0] * hw[1] * destinations

    def _cell_grid(self, hw: tuple[int, int]) -> tuple[int, int]:
        return (1, hw[0] * hw[1]) if self.mode == "n1d" else hw


@dataclass(frozen=True)
class StageMerging:
    """What one stage merges around its attention; None merges nothing.

    Args:
        q: Matcher of the queries.
        kv: Matcher of the keys and values.
        proportional: Merged keys weigh by the log of their size in the softmax.
        reuse: Consecutive blocks that share the assignments which the first of them makes.
    """

    q: Matcher | None = None
    kv: Matcher | None = None
    proportional: bool = False
    reuse: int = 1
