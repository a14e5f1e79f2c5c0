"""A linear layer by the fastest exact kernel of the device."""

from __future__ import annotations

from torch import Tensor, nn

from mmtokmerge.kernels.linear import linear


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` whose product is :func:`mmtokmerge.kernels.linear.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        return linear(input, self.weight, self.bias)


__all__ = ["Linear", "linear"]
