"""ELViT's token clustering: neighbouring tokens around a coarser grid of centres."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from mmtokmerge.checks import number_in, whole_number
from mmtokmerge.errors import InputError
from mmtokmerge.layers.reducers.keeping_share import KeepingShare
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.local_clustering import local_clustering


class TokenClustering(KeepingShare):
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
        super().__init__(keep, **kwargs)
        if number_in("temperature", temperature, 0, math.inf) == 0:
            raise InputError("temperature must be above 0, got 0")
        whole_number("iterations", iterations, 0)
        self.iterations = iterations
        self.temperature = float(temperature)

    def group(self, feature: Tensor, hw: tuple[int, int]) -> TokenAssignment:
        """See :func:`mmtokmerge.merging.local_clustering.local_clustering`."""
        return local_clustering(
            feature,
            hw,
            clusters=self.coarser(hw),
            iterations=self.iterations,
            temperature=self.temperature,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, iterations={self.iterations}"
