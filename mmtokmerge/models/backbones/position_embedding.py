"""Position embeddings of a ViT for any grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmtokmerge.checks import one_of
from mmtokmerge.errors import InputError

MODES = ("nearest", "bilinear", "bicubic")


class PositionEmbedding(nn.Module):
    """Interpolates a grid's embeddings to other grids; those of tokens ahead of it stay.

    Without gradients the last result is kept: a set of equal images interpolates once.

    Args:
        grid: The grid ``(h, w)`` that the embeddings are kept for.
        mode: 'nearest', 'bilinear' or 'bicubic'.
        num_prefix: P, embeddings ahead of the grid's: the class token's, and a distilled DeiT's
            distillation token's.

    Raises:
        ValueError: If the mode is unknown.
    """

    def __init__(self, grid: tuple[int, int], mode: str, num_prefix: int = 1) -> None:
        super().__init__()
        self.grid = grid
        self.mode = one_of("interpolate_mode", mode, MODES)
        self.num_prefix = num_prefix
        self._cached: tuple[tuple[object, ...], Tensor] | None = None

    def forward(self, pos_embed: Tensor, hw: tuple[int, int]) -> Tensor:
        """``(1, P + H * W, C)`` of this grid to ``(1, P + h * w, C)`` of the grid ``hw``."""
        if hw == self.grid:
            return pos_embed
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return resize(pos_embed, self.grid, hw, self.mode, self.num_prefix)
        key = (hw, pos_embed.data_ptr(), pos_embed._version, pos_embed.dtype, pos_embed.device)
        if self._cached is None or self._cached[0] != key:
            self._cached = key, resize(pos_embed, self.grid, hw, self.mode, self.num_prefix)
        return self._cached[1]

    def train(self, mode: bool = True) -> PositionEmbedding:
        self._cached = None  # what averages weights between modes does not count their versions
        return super().train(mode)

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_cached": None}


def resize(
    pos_embed: Tensor, grid: tuple[int, int], hw: tuple[int, int], mode: str, num_prefix: int = 1
) -> Tensor:
    """Interpolate all but the first P of ``(1, P + H * W, C)`` from ``grid`` to ``hw``."""
    first, rest = pos_embed[:, :num_prefix], pos_embed[:, num_prefix:]
    maps = rest.unflatten(1, grid).permute(0, 3, 1, 2)
    corners = None if mode == "nearest" else False
    precise = maps.to(torch.promote_types(maps.dtype, torch.float32))
    resized = F.interpolate(precise, hw, mode=mode, align_corners=corners).to(maps.dtype)
    return torch.cat([first, resized.flatten(2).transpose(1, 2)], dim=1)


def read_pos_embed(
    found: Tensor, positions: PositionEmbedding, grid: tuple[int, int] | None = None
) -> Tensor:
    """Resize a checkpoint's embeddings ``(1, P + H * W, C)`` to a model's grid.

    Args:
        found: The embeddings.
        positions: Those of the model.
        grid: The checkpoint's grid ``(H, W)``; None where it does not say, for a square one.

    Raises:
        ValueError: If they are not those of such a grid and the tokens ahead of it.
    """
    count = max(0, found.shape[1] - positions.num_prefix) if found.dim() == 3 else 0
    side = math.isqrt(count)
    own = grid if grid is not None else (side, side)
    if own[0] * own[1] != count or count == 0:
        ahead = "a class token" if positions.num_prefix == 1 else "class and distillation token"
        raise InputError(
            f"pos_embed of the checkpoint is {tuple(found.shape)}: neither the model's grid "
            f"{positions.grid} nor a square one, with {ahead}"
        )
    if own == positions.grid:
        return found
    print_log(f"pos_embed is resized from {own} to {positions.grid}", "current")
    return resize(found, own, positions.grid, positions.mode, positions.num_prefix)


def without_distillation(pos_embed: Tensor) -> Tensor:
    """A distilled DeiT's embeddings ``(1, 2 + N, C)`` without the distillation token's."""
    return torch.cat([pos_embed[:, :1], pos_embed[:, 2:]], dim=1)
