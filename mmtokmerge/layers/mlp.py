"""The MLP of a plain ViT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.kernels.plain import call_linear, is_elementwise, is_plain
from mmtokmerge.kernels.recording import is_recorded

WHOLE_BYTES = 16 * 2**20  # hidden rows up to this size are made in one piece
STRIP_BYTES = 2 * 2**20  # of each thread


class MLP(nn.Module):
    """Two linear layers, with the parameters of mmcv's ``FFN`` (``layers.0.0`` and ``layers.1``).

    On a CPU without gradients many tokens are taken in pieces: the hidden rows stay in the cache,
    and the allocator hands the same memory out again instead of new pages.

    Args:
        embed_dims: Channels C.
        feedforward_channels: Hidden channels.
        activation: Between the two; GELU if None.
        drop: Dropout after each.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        activation: nn.Module | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        first = nn.Sequential(
            nn.Linear(embed_dims, feedforward_channels),
            activation if activation is not None else nn.GELU(),
            nn.Dropout(drop),
        )
        self.layers = nn.Sequential(
            first, nn.Linear(feedforward_channels, embed_dims), nn.Dropout(drop)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(B, N, C)`` to ``(B, N, C)``."""
        if x.is_cuda or not self._is_plain():
            out: Tensor = self.layers(x)
            return out
        if x.device.type != "cpu" or torch.is_grad_enabled() or is_recorded():
            return self._rows(x)
        fc2: Any = self.layers[1]
        row = fc2.in_features * x.element_size()
        rows = x.flatten(0, 1)
        if len(rows) * row <= WHOLE_BYTES:
            return self._rows(x)
        strips = rows.split(max(1, STRIP_BYTES * torch.get_num_threads() // row))
        return torch.cat([self._rows(strip) for strip in strips]).view_as(x)

    def _is_plain(self) -> bool:
        """Whether rows may go through the layers in pieces, by the fastest kernels."""
        if not (is_plain(self.layers, nn.Sequential) and is_plain(self.layers[0], nn.Sequential)):
            return False
        first: Any = self.layers[0]
        fc1, activation, drop1 = first
        parts = (fc1, self.layers[1])
        drops = (drop1, self.layers[2])
        return (
            all(is_plain(each, nn.Linear) for each in parts)
            and all(is_plain(each, nn.Dropout) for each in drops)
            and is_elementwise(activation)
        )

    def _rows(self, x: Tensor) -> Tensor:
        parts: Any = self.layers
        (fc1, activation, drop1), fc2, drop2 = parts
        out: Tensor = drop2(call_linear(fc2, drop1(activation(call_linear(fc1, x)))))
        return out
