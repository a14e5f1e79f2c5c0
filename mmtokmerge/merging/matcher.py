"""One way of merging the tokens of a grid, and what a stage merges around its attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.bilinear_pooling import bilinear_pooling
from mmtokmerge.merging.bipartite import DESTINATIONS, MATCHES, match_by_rate, merged_tokens
from mmtokmerge.merging.grid import clip
from mmtokmerge.merging.neighbour_pooling import neighbour_pooling
from mmtokmerge.merging.neighbourhood import AROUND, comparisons_around

UNMERGES = ("copy", "bilinear")


@dataclass(frozen=True)
class BipartiteMatcher:
    """Bipartite soft matching by rate ('bsm'; Segformer++, section III-B), fixed by a config.

    Args:
        rate: Fraction of tokens removed.
        stride: Destination cell ``(sy, sx)``.
        destination: Which token of a cell is the destination, 'corner' or 'centre'.
        match: Which destinations a token is compared with, 'global' or 'local'.
    """

    rate: float
    stride: tuple[int, int]
    destination: str = DESTINATIONS[0]
    match: str = MATCHES[0]

    @property
    def mode(self) -> str:
        """What configs call it."""
        return "bsm"

    def assign(self, x: Tensor, hw: tuple[int, int]) -> TokenAssignment:
        """Group the tokens ``x (B, N, C)`` of the grid ``hw``."""
        return match_by_rate(
            x,
            hw,
            rate=self.rate,
            stride=self.stride,
            destination=self.destination,
            match=self.match,
        )

    def num_groups(self, hw: tuple[int, int]) -> int:
        """How many groups :meth:`assign` makes of the grid ``hw``."""
        return hw[0] * hw[1] - merged_tokens(hw, self.rate, self.stride)

    def num_destinations(self, hw: tuple[int, int]) -> int:
        """How many destinations each token of the grid ``hw`` is compared with."""
        if merged_tokens(hw, self.rate, self.stride) == 0:
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


@dataclass(frozen=True)
class CellPooling:
    """Neighbours merge, whatever they look like ('n2d', 'n1d'; Segformer++, section III-C).

    Args:
        kernel: Cell ``(ky, kx)`` that becomes one token; ``(1, k)`` along the sequence.
        unmerge: How tokens come back, 'copy' or 'bilinear', which needs a grid.
        along_sequence: Cells are runs of the raster sequence ('n1d'), not of the grid.
    """

    kernel: tuple[int, int]
    unmerge: str = UNMERGES[0]
    along_sequence: bool = False

    @property
    def mode(self) -> str:
        """What configs call it."""
        return "n1d" if self.along_sequence else "n2d"

    @property
    def stride(self) -> tuple[int, int]:
        """The cell, as configs name it."""
        return self.kernel

    def assign(self, x: Tensor, hw: tuple[int, int]) -> TokenAssignment:
        """Group the tokens ``x (B, N, C)`` of the grid ``hw``."""
        pool = bilinear_pooling if self.unmerge == "bilinear" else neighbour_pooling
        return pool(self._cell_grid(hw), kernel=self.kernel, device=x.device)

    def num_groups(self, hw: tuple[int, int]) -> int:
        """How many groups :meth:`assign` makes of the grid ``hw``."""
        h, w = self._cell_grid(hw)
        ky, kx = clip(self.kernel, (h, w))
        return -(-h // ky) * -(-w // kx)

    def num_comparisons(self, hw: tuple[int, int]) -> int:
        """No cosine is taken."""
        return 0

    def _cell_grid(self, hw: tuple[int, int]) -> tuple[int, int]:
        return (1, hw[0] * hw[1]) if self.along_sequence else hw


Matcher = BipartiteMatcher | CellPooling


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

    @property
    def bipartite(self) -> list[BipartiteMatcher]:
        """Those of its matchers that match by similarity."""
        return [side for side in (self.q, self.kv) if isinstance(side, BipartiteMatcher)]
