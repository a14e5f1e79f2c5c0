"""MixFFN: the MLP with a 3x3 depthwise convolution inside, on channels-last memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmtokmerge.kernels.linear import linear
from mmtokmerge.kernels.plain import is_plain
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
        if not self._is_plain(norm):
            return to_tokens(self.layers(to_map(norm(x), hw)))
        rows = self._rows_of_strip(x, hw)
        if rows < hw[0]:
            return self._forward_strips(x, hw, norm, rows)
        x = norm(x)
        fc1, depthwise, activation, drop1, fc2, drop2 = self.layers
        hidden = linear(x, fc1.weight.flatten(1), fc1.bias)  # (B, N, hidden)
        hidden = to_tokens(depthwise(to_map(hidden, hw)))
        out = linear(drop1(activation(hidden)), fc2.weight.flatten(1), fc2.bias)
        return drop2(out)

    def _is_plain(self, norm: Callable[[Tensor], Tensor]) -> bool:
        """Whether products and strips may stand for the calls of the layers and the norm."""
        if not is_plain(self.layers, nn.Sequential):
            return False
        fc1, depthwise, activation, drop1, fc2, drop2 = self.layers
        if isinstance(norm, nn.Module) and not is_plain(norm, type(norm)):
            return False
        return (
            all(is_plain(each, nn.Conv2d) for each in (fc1, depthwise, fc2))
            and all(is_plain(each, nn.Dropout) for each in (drop1, drop2))
            and is_plain(activation, type(activation))
        )

    def _rows_of_strip(self, x: Tensor, hw: tuple[int, int]) -> int:
        if x.device.type != "cpu" or torch.is_grad_enabled() or is_recorded():
            return hw[0]
        row = x.shape[0] * hw[1] * self.layers[0].out_channels * x.element_size()
        if row * hw[0] <= WHOLE_BYTES:
            return hw[0]
        return max(MIN_ROWS, STRIP_BYTES * torch.get_num_threads() // row)

    def _forward_strips(
        self, x: Tensor, hw: tuple[int, int], norm: Callable[[Tensor], Tensor], rows: int
    ) -> Tensor:
        fc1, depthwise, activation, drop1, fc2, drop2 = self.layers
        grid = x.unflatten(1, hw)  # (B, h, w, C)
        out = torch.empty_like(grid)
        for top in range(0, hw[0], rows):
            bottom = min(hw[0], top + rows)
            above, below = max(0, top - 1), min(hw[0], bottom + 1)  # the 3x3 kernel's halo
            hidden = linear(norm(grid[:, above:below]), fc1.weight.flatten(1), fc1.bias)
            hidden = depthwise(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            hidden = drop1(activation(hidden[:, top - above : bottom - above]))
            out[:, top:bottom] = linear(hidden, fc2.weight.flatten(1), fc2.bias)
        return drop2(out.flatten(1, 2))
