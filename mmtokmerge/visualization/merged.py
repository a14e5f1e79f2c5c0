"""What was merged where, in one image grid: the one value that recorders make and figures draw."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmtokmerge.merging import TokenAssignment


@dataclass(frozen=True, eq=False)
class WindowSimilarity:
    """How alike the tokens of each window of a grid are, which local merging decides by.

    Args:
        values: ``(B, h // wy, w // wx)`` the mean cosine of each full window.
        window: ``(wy, wx)`` in tokens.
        threshold: Cosine above which a window merges.
        place: Whose similarity it is, for a title.
    """

    values: Tensor
    window: tuple[int, int]
    threshold: float
    place: str

    def num_above(self, image: int = 0) -> int:
        """How many windows of one image of the batch are above the threshold."""
        return int((self.values[image] > self.threshold).sum())


@dataclass(frozen=True, eq=False)
class MergedTokens:
    """The tokens that stand together at one place of a model in one forward pass.

    Args:
        place: Where, for a title, such as 'Stage 3: queries' or 'After CLAP in layer 1'.
        how: What merged them, in a few words for a line below the title.
        assignment: Which tokens of the grid stand together, ``(B, h*w)``.
        hw: The tokens' grid ``(h, w)``.
        covered: Fraction of the input's height and width that the grid covers: a spatial reduction
            that does not divide its grid leaves out the bottom and right rest.
        stage: Stage, counted from 1; None where the encoder has none, such as a plain ViT.
        removed: False where tokens that stand together are averaged, but all are kept.
        windows: The similarity that local merging decided by, None for what merges otherwise.
    """

    place: str
    how: str
    assignment: TokenAssignment
    hw: tuple[int, int]
    covered: tuple[float, float] = (1.0, 1.0)
    stage: int | None = None
    removed: bool = True
    windows: WindowSimilarity | None = None

    def groups(self, image: int = 0) -> Tensor:
        """``(h*w,)`` int64: the group of each token of one image of the batch."""
        return self.assignment.groups[self._row(image)]

    def num_kept(self, image: int = 0) -> int:
        """How many groups one image of the batch keeps; padded ones do not count."""
        return int((self.assignment.sizes[self._row(image)] > 0).sum())

    def _row(self, image: int) -> int:
        return image if self.assignment.groups.shape[0] > 1 else 0
