"""ELViT's token clustering: neighbouring tokens around a coarser grid of centres."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from mmtokmerge.checks import number_in, whole_number
from mmtokmerge.errors import InputError
from mmtokmerge.layers.reducers.base import Reducer
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.local_clustering import local_clustering


class TokenClustering(Reducer):
    """Clusters of neighbouring tokens (ELViT, Liang et al. 2022), without training.

    The paper reconstructs the patches after the last layer from the tokens nearest to them before
    the clustering; here each takes its cluster's, as where anything else merges.

    Args:
        keep: Share of the patches that there are centres, of the same share on both sides; fewer
            tokens are left where a centre ends without one.
        iterations: How often the centres move; the paper's 5.
        temperature: tau of the softmax over centres; the paper's 50.
        **kwargs: Arguments of :class:`Reducer`.

    Raises:
        ValueError: If a number is out of range; at the forward, if something merged before.
    """

    def __init__(
        self, keep: float, iterations: int = 5, temperature: float = 50.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if number_in("keep", keep, 0, 1) == 0:
            raise InputError("keep must be above 0, got 0")
        if number_in("temperature", temperature, 0, math.inf) == 0:
            raise InputError("temperature must be above 0, got 0")
        whole_number("iterations", iterations, 0)
        self.keep = float(keep)
        self.iterations = iterations
        self.temperature = float(temperature)

    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.local_clustering.local_clustering`."""
        if assignment is not None:
            raise InputError("TokenClustering must be the first to merge: name it first")
        return local_clustering(
            feature,
            hw,
            clusters=self.clusters(hw),
            iterations=self.iterations,
            temperature=self.temperature,
        )

    def clusters(self, hw: tuple[int, int]) -> tuple[int, int]:
        """Centres ``(h', w')`` of a grid."""
        share = math.sqrt(self.keep)
        h, w = (max(1, round(side * share)) for side in hw)
        return h, w

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keep={self.keep:.4g}, iterations={self.iterations}"
