"""Thresholds of a plain ViT's reducers, set so that given fractions of the patches remain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.layers.reducers import ThresholdReducer

STEPS = 40
LOWEST, HIGHEST = -1.01, 1.01  # a cosine in any precision lies between
TOLERANCE = 0.02


def threshold_reducers(backbone: nn.Module) -> list[ThresholdReducer]:
    """The reducers with a threshold, in the order in which they act."""
    listed = [each for each in getattr(backbone, "reducers", ()) if hasattr(each, "tau")]
    return sorted(listed, key=lambda each: (min(each.layers), each.position == "after"))


def check_fractions(backbone: nn.Module, fractions: Sequence[float], name: str) -> None:
    """Raise InputError unless each fraction belongs to one reducer that acts once."""
    reducers = threshold_reducers(backbone)
    if len(reducers) != len(fractions):
        raise InputError(
            f"--kept gives {len(fractions)} fractions, but {name} has {len(reducers)} reducers "
            "with a threshold: give one for each, in the order in which they act."
        )
    for reducer in reducers:
        if len(reducer.layers) > 1 or not reducer.reduce:
            raise InputError(
                f"--kept needs reducers that act in one layer and reduce, but {name} has a "
                f"{type(reducer).__name__} with layer={list(reducer.layers)} and "
                f"reduce={reducer.reduce}."
            )


@torch.no_grad()
def keep_fractions(backbone: nn.Module, images: Tensor, fractions: Sequence[float]) -> None:
    """Set the thresholds so that of these images' patches the fractions remain, on average.

    Args:
        backbone: A plain ViT.
        images: ``(B, 3, H, W)``.
        fractions: One for each of :func:`threshold_reducers`.

    Raises:
        InputError: If a reducer cannot keep as few or as many.
    """
    hooks = [
        reducer.register_forward_pre_hook(_setter(fraction))
        for reducer, fraction in zip(threshold_reducers(backbone), fractions)
    ]
    try:
        backbone(images)
    finally:
        for hook in hooks:
            hook.remove()


def _setter(fraction: float) -> Callable[[ThresholdReducer, tuple[Any, ...]], None]:
    """A hook that sets the reducer's threshold from what it is about to reduce."""

    def set_threshold(reducer: ThresholdReducer, args: tuple[Any, ...]) -> None:
        _, feature, given, hw = args
        patches = hw[0] * hw[1]

        def kept(threshold: float) -> float:
            reducer.threshold = threshold
            sizes = reducer.match(feature, given, hw).sizes
            return float((sizes > 0).sum()) / len(sizes) / patches

        least, most = kept(LOWEST), kept(HIGHEST)
        if not least - TOLERANCE <= fraction <= most + TOLERANCE:
            raise InputError(
                f"--kept {fraction:g} cannot be reached: {type(reducer).__name__} in layer "
                f"{reducer.layers[0]} keeps from {least:.3f} to {most:.3f} of the patches."
            )
        reducer.threshold = _nearest(kept, fraction)

    return set_threshold


def _nearest(kept: Callable[[float], float], fraction: float) -> float:
    """The threshold that keeps the fraction most nearly; what is kept rises with it."""
    low, high = LOWEST, HIGHEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) <= fraction else (low, middle)
    return min((low, high), key=lambda threshold: abs(kept(threshold) - fraction))
