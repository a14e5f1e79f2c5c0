"""Which of several models processes an image, by how much its tokens may share (CTS, table 7b)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmtokmerge.errors import InputError


def count_shareable(scores: Tensor, hw: tuple[int, int], threshold: float) -> Tensor:
    """S*: the whole superpatches of each image whose score is above the threshold.

    Args:
        scores: ``(B, ceil(h / 2), ceil(w / 2))`` of a policy.
        hw: Grid of patches ``(h, w)``; superpatches half outside of it never share.
        threshold: The score that must be exceeded.

    Returns:
        ``(B,)`` int64.
    """
    whole = scores[:, : hw[0] // 2, : hw[1] // 2]
    return (whole > threshold).sum((1, 2))


def route(settings: Sequence[int], shareable: float) -> int:
    """The model with the highest setting S below S* (CTS, section 5.5).

    Where no setting is below S*, the one that shares least processes the image; of models with the
    same setting, the first.

    Args:
        settings: S of each model on this image, 0 where it shares nothing.
        shareable: S*; the mean over the windows where the network sees an image in windows.

    Returns:
        The model's index.

    Raises:
        ValueError: If there are no models or a setting is negative.
    """
    if not settings or min(settings) < 0:
        raise InputError(f"route takes settings from 0 up of at least one model, got {settings}")
    below = [setting for setting in settings if setting < shareable]
    return list(settings).index(max(below) if below else min(settings))


def token_reduction(num_shared: int, hw: tuple[int, int]) -> float:
    """Percent of a grid's patches that sharing saves as tokens: ``3 S`` of ``N``."""
    return 100 * 3 * num_shared / (hw[0] * hw[1])
