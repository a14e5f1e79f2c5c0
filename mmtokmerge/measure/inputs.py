"""What a segmentor's network is given for one image in a test: the whole image, or its windows."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def network_inputs(
    model: nn.Module, batch: dict[str, Any], shape: tuple[int, int] | None = None
) -> list[Tensor]:
    """The normalised images ``(1, 3, H, W)`` that the network sees.

    Args:
        model: A segmentor of mmseg.
        batch: A batch of one image as ``model.test_step`` takes it; it is left as it is.
        shape: Resize the image to this ``(H, W)`` and take it whole, whatever ``test_cfg`` says.

    Returns:
        One tensor, or one for each window where ``test_cfg.mode`` is 'slide'.
    """
    image = normalised(model, batch)
    if shape is not None:
        return [F.interpolate(image, shape, mode="bilinear", antialias=True)]
    return [image[:, :, y : y + h, x : x + w] for y, x, h, w in windows(model, image.shape[2:])]


def normalised(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """The whole image ``(1, 3, H, W)`` after the data preprocessor; the batch is left as it is."""
    return model.data_preprocessor(copy.deepcopy(batch), False)["inputs"]


def windows(
    model: nn.Module, shape: tuple[int, int] | torch.Size
) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of the parts of an image that mmseg encodes one by one."""
    height, width = shape
    test_cfg = getattr(model, "test_cfg", None) or {}
    if test_cfg.get("mode") != "slide":
        return [(0, 0, height, width)]
    crop_h, crop_w = (min(a, b) for a, b in zip(test_cfg["crop_size"], shape))
    tops, lefts = (
        [min(step, side - crop) for step in _starts(side, crop, stride)]
        for side, crop, stride in zip(shape, (crop_h, crop_w), test_cfg["stride"])
    )
    return [(top, left, crop_h, crop_w) for top in tops for left in lefts]


def _starts(side: int, crop: int, stride: int) -> list[int]:
    return [number * stride for number in range(-(-max(side - crop, 0) // stride) + 1)]
