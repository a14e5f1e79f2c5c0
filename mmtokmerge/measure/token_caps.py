"""How many tokens merging by a threshold keeps of real images, as a cap for a static file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.layers.reducers import ThresholdReducer
from mmtokmerge.merging.trace import trace


def threshold_reducers(model: Any) -> list[Any]:
    """The reducers of a plain ViT that merge by a threshold."""
    reducers = getattr(model.backbone, "reducers", ())
    return [each for each in reducers if isinstance(each, ThresholdReducer)]


@torch.no_grad()
def cap_tokens(
    model: Any, images: Sequence[Tensor], quantile: float, shape: tuple[int, int]
) -> str:
    """Set ``max_tokens`` of every reducer with a threshold to a quantile of what images keep.

    Args:
        model: A segmentor with a plain ViT.
        images: Normalised images ``(1, 3, H, W)``.
        quantile: The share of the images that keep no more than the cap.
        shape: Their size.

    Returns:
        What was set, for people.

    Raises:
        InputError: There is no such reducer, or no image of that size.
    """
    capped = threshold_reducers(model)
    if not capped:
        raise InputError("--cap is for reducers that merge by a threshold, the config has none")
    if not images:
        raise InputError(
            f"--cap found no training image of {shape[0]}x{shape[1]} pixels: give --shape as the "
            "test pipeline and test_cfg make them"
        )
    for reducer in capped:
        reducer.max_tokens = None
    remaining: list[list[int]] = []
    for image in images:
        with trace(model.backbone) as found:
            model.backbone(image)
        remaining.append(
            [event.assignment.num_groups for event in found.events if event.module in capped]
        )
    said, before = [], 0
    for number, reducer in enumerate(capped):
        counts = sorted(each[number] for each in remaining)
        most = counts[min(len(counts) - 1, max(0, math.ceil(quantile * len(counts)) - 1))]
        most = max(most, before // 2)  # every other token may merge
        reducer.max_tokens = before = most
        beyond = sum(count > most for count in counts) / len(counts)
        said.append(
            f"  {type(reducer).__name__}: at most {most} tokens; the {len(counts)} images keep "
            f"{counts[0]} to {counts[-1]}, {beyond:.1%} of them more"
        )
    return "\n".join(said)
