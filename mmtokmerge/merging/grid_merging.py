"""Neighbours in rows, then in columns, so that what is left is a grid again (after CubistMerge)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.merging.assignment import TokenAssignment


def grid_merging(x: Tensor, hw: tuple[int, int], to: tuple[int, int]) -> TokenAssignment:
    """Merge a grid of tokens into a smaller grid (after CubistMerge, 2509.21764).

    In every row the most similar pairs of neighbours merge until it has the columns of ``to``, a
    chain of pairs into one; then the same in every column of what is left. So a group is one place
    of a grid whose rows and columns keep their order: windows and positions go on working.

    Args:
        x: Tokens ``(B, h*w, C)`` whose cosine decides.
        hw: The grid ``(h, w)``.
        to: Rows and columns that are left, at least 1 and at most the grid.

    Returns:
        Groups numbered along the rows of the smaller grid.

    Raises:
        ValueError: The grid does not hold the tokens, or is smaller than ``to``.
    """
    h, w = hw
    rows, columns = to
    if h * w != x.shape[1] or not (1 <= rows <= h and 1 <= columns <= w):
        raise InputError(f"to={to} must be at most the grid {hw}, which must hold {x.shape[1]}")
    with torch.no_grad():
        values = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, hw)
        column = _runs(values, columns)  # (B, h, w), the new column of each token
        line = torch.arange(h, device=x.device)[:, None] * columns
        first = TokenAssignment.from_groups((line + column).flatten(1), h * columns)
        half = first.merge(values.flatten(1, 2)).unflatten(1, (h, columns))
        row = _runs(half.transpose(1, 2), rows).transpose(1, 2)  # (B, h, columns)
        place = torch.arange(columns, device=x.device)
        second = (row * columns + place).flatten(1)
        return TokenAssignment.from_groups(second.gather(1, first.groups), rows * columns)


def _runs(values: Tensor, left: int) -> Tensor:
    """``(B, R, n)`` the run of each of ``(B, R, n, C)`` neighbours when ``left`` runs stay."""
    unit = F.normalize(values, dim=-1)
    alike = (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1)  # (B, R, n - 1)
    merged = alike.argsort(dim=-1, descending=True, stable=True)[..., : values.shape[2] - left]
    opens = torch.ones_like(alike, dtype=torch.long)
    opens = opens.scatter(2, merged, torch.zeros_like(merged))
    return F.pad(opens.cumsum(-1), (1, 0))
