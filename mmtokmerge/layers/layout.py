"""Tokens ``(B, N, C)`` and a channels-last map ``(B, C, h, w)`` are one memory."""

from __future__ import annotations

from torch import Tensor


def to_map(x: Tensor, hw: tuple[int, int]) -> Tensor:
    """View tokens ``(B, h*w, C)`` as a channels-last map ``(B, C, h, w)``; copies nothing."""
    grid: Tensor = x.unflatten(1, hw).permute(0, 3, 1, 2)
    return grid


def to_tokens(x: Tensor) -> Tensor:
    """View a channels-last map ``(B, C, h, w)`` as tokens ``(B, h*w, C)``; copies other layouts."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def hold_grid(x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """In a trace, the same tokens and their grid as numbers that hold for this grid alone.

    A trace keeps which tokens of a grid may merge. The expansion, which does nothing here, fails
    where the trace is run on another grid, also one of as many tokens.
    """
    h, w = int(hw[0]), int(hw[1])
    return to_tokens(to_map(x, hw).expand(-1, -1, h, w)), (h, w)
