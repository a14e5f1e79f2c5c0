"""Tokens ``(B, N, C)`` and a channels-last map ``(B, C, h, w)`` are one memory."""

from __future__ import annotations

from torch import Tensor


def to_map(x: Tensor, hw: tuple[int, int]) -> Tensor:
    """View tokens ``(B, h*w, C)`` as a channels-last map ``(B, C, h, w)``; copies nothing."""
    return x.unflatten(1, hw).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """View a channels-last map ``(B, C, h, w)`` as tokens ``(B, h*w, C)``; copies other layouts."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
