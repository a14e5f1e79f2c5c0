"""MixFFN: the MLP with a 3x3 depthwise convolution inside, on channels-last memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmtokmerge.kernels.depthwise import depthwise_activation, is_3x3_depthwise
from mmtokmerge.kernels.linear import linear
from mmtokmerge.kernels.norm import call_norm
from mmtokmerge.kernels.plain import is_elementwise, is_plain, is_pointwise
from mmtokmerge.kernels.recording import is_recorded
from mmtokmerge.layers.layout import to_map, to_tokens

WHOLE_BYTES = 8 * 2**20  # a hidden map up to this size is made in one piece
STRIP_BYTES = 2 * 2**20  # of each thread
MIN_ROWS = 8  # a strip computes two rows of halo again


def _same(x: Tensor) -> Tensor:
    return x


class MixFFN(nn.Module):
    """FFN(Conv(FFN(x))) (Segformer++, section III-A), with the parameters of mmseg's ``MixFFN``.

    The 1x1 convolutions are products with the token matrix, and the depthwise convolution works on
    the same memory seen as a channels-last map, so nothing is transposed.

    On a CPU without gradients a large hidden map is made in strips of rows: a strip stays in the
    cache, and the allocator hands the same memory out again instead of new pages.

    Args:
        embed_dims: Channels C.
        feedforward_channels: Hidden channels.
        activation: Made without arguments; applied after the depthwise convolution.
        drop: Dropout after the activation and at the end.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        activation: nn.Module | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = feedforward_channels
        self.layers = nn.Sequential(
            nn.Conv2d(embed_dims, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            activation if activation is not None else nn.GELU(),
            nn.Dropout(drop),
            nn.Conv2d(hidden, embed_dims, 1),
            nn.Dropout(drop),
        )

    def forward(
        self, x: Tensor, hw: tuple[int, int], norm: Callable[[Tensor], Tensor] = _same
    ) -> Tensor:
        """Map tokens ``(B, h*w, C)`` of the grid ``hw`` to ``(B, h*w, C)``.

        ``norm`` is applied to the tokens first, strip by strip where there are strips.
        """
        if is_plain(self.layers, nn.Sequential):
            parts = MixParts(*self.layers)
            if parts.are_plain(norm):
                return parts.feed(x, hw, norm)
        return to_tokens(self.layers(to_map(norm(x), hw)))


class MixParts(NamedTuple):
    """What a MixFFN is made of, whoever built it.

    Args:
        fc1: A linear layer or 1x1 convolution, to the hidden channels.
        depthwise: The 3x3 depthwise convolution.
        activation: After it.
        drop1: After the activation.
        fc2: As ``fc1``, back to C.
        drop2: At the end.
    """

    fc1: Any
    depthwise: nn.Module
    activation: nn.Module
    drop1: nn.Module
    fc2: Any
    drop2: nn.Module

    def are_plain(self, norm: Callable[[Tensor], Tensor] = _same) -> bool:
        """Whether products and strips may stand for the calls of the parts and the norm."""
        if isinstance(norm, nn.Module) and not is_plain(norm, nn.LayerNorm):
            return False
        return (
            all(is_pointwise(each) for each in (self.fc1, self.fc2))
            and is_plain(self.depthwise, nn.Conv2d)
            and is_3x3_depthwise(self.depthwise)
            and all(is_plain(each, nn.Dropout) for each in (self.drop1, self.drop2))
            and is_elementwise(self.activation)
        )

    def feed(
        self, x: Tensor, hw: tuple[int, int], norm: Callable[[Tensor], Tensor] = _same
    ) -> Tensor:
        """Map tokens ``(B, h*w, C)``; see :class:`MixFFN`. The parts must be plain."""
        rows = self._rows_of_strip(x, hw)
        if rows < hw[0]:
            return self._feed_strips(x, hw, norm, rows)
        normed = call_norm(norm, x) if isinstance(norm, nn.Module) else norm(x)
        hidden = _product(self.fc1, normed)  # (B, N, hidden)
        hidden = depthwise_activation(self.depthwise, self.activation, hidden, hw)
        out: Tensor = self.drop2(_product(self.fc2, self.drop1(hidden)))
        return out

    def _rows_of_strip(self, x: Tensor, hw: tuple[int, int]) -> int:
        if x.device.type != "cpu" or torch.is_grad_enabled() or is_recorded():
            return hw[0]
        width: int = self.fc1.weight.shape[0]
        row = x.shape[0] * hw[1] * width * x.element_size()
        if row * hw[0] <= WHOLE_BYTES:
            return hw[0]
        return max(MIN_ROWS, STRIP_BYTES * torch.get_num_threads() // row)

    def _feed_strips(
        self, x: Tensor, hw: tuple[int, int], norm: Callable[[Tensor], Tensor], rows: int
    ) -> Tensor:
        grid = x.unflatten(1, hw)  # (B, h, w, C)
        out = torch.empty_like(grid)
        for top in range(0, hw[0], rows):
            bottom = min(hw[0], top + rows)
            above, below = max(0, top - 1), min(hw[0], bottom + 1)  # the 3x3 kernel's halo
            hidden = _product(self.fc1, norm(grid[:, above:below]))
            hidden = self.depthwise(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            hidden = self.drop1(self.activation(hidden[:, top - above : bottom - above]))
            out[:, top:bottom] = _product(self.fc2, hidden)
        dropped: Tensor = self.drop2(out.flatten(1, 2))
        return dropped


def _product(layer: Any, x: Tensor) -> Tensor:
    """A linear layer's or a 1x1 convolution's product with the rows of ``x (..., C)``."""
    return linear(x, layer.weight.flatten(1), layer.bias)
