"""PiToMe: tokens of large clusters merge, whatever their place in the sequence."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmtokmerge.checks import number_in
from mmtokmerge.layers.reducers.base import refuse_padded
from mmtokmerge.layers.reducers.tome import ToMe
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.energy_matching import energy_matching


class PiToMe(ToMe):
    """Merges a fixed number of tokens of high energy in each of its layers (Tran et al. 2024).

    As :class:`ToMe`, with another choice of who may merge; it too compares keys and wants
    ``proportional=True``. The paper's margin falls with the depth, ``0.9 - 0.9 * l / L``: name one
    reducer for each layer to have it so.

    Args:
        margin: Cosine from which two tokens count as one cluster.
        **kwargs: Arguments of :class:`ToMe`.

    Raises:
        TypeError: If the margin is not a number.
        ValueError: If it is outside -1 to 1; and as :class:`ToMe`.
    """

    def __init__(self, *args: Any, margin: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.margin = float(number_in("margin", margin, -1, 1))

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.energy_matching.energy_matching`."""
        refuse_padded(self, assignment)
        count = self.count(feature.shape[1])
        return energy_matching(feature, count, margin=self.margin)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, margin={self.margin:.4g}"
