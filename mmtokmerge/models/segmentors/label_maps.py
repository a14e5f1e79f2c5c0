"""Ground truth as the network sees the image: resized, flipped and padded with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def label_maps(
    data_samples: Sequence[Any], inputs: Tensor, fill: int, flip: bool = False
) -> Tensor | None:
    """Label maps ``(B, H, W)`` int64 of images ``inputs (B, C, H, W)``; None if one lacks labels.

    In a test labels have the size of the file and stand as in it, while the image may be resized,
    flipped by test-time augmentation and padded at the right and bottom.

    Args:
        data_samples: mmseg's samples, with ``gt_sem_seg`` and what the pipeline noted.
        inputs: The network's images.
        fill: The label of padding.
        flip: Whether labels are still to be flipped where the image was; a training pipeline flips
            both, a test loads labels after the flip.
    """
    if any("gt_sem_seg" not in sample for sample in data_samples):
        return None
    size = (inputs.shape[2], inputs.shape[3])
    maps = [_as_seen(sample, size, fill, flip) for sample in data_samples]
    return torch.stack(maps).to(inputs.device)


def _as_seen(sample: Any, size: tuple[int, int], fill: int, flip: bool) -> Tensor:
    label = sample.gt_sem_seg.data[0]  # (h, w)
    noted = sample.metainfo.get("img_shape", size) if label.shape != size else size
    seen = (min(noted[0], size[0]), min(noted[1], size[1]))
    label = label[_nearest(label.shape[0], seen[0], label.device)]
    label = label[:, _nearest(label.shape[1], seen[1], label.device)]
    if flip and sample.metainfo.get("flip"):
        direction = sample.metainfo.get("flip_direction") or "horizontal"
        sides = {"horizontal": [1], "vertical": [0], "diagonal": [0, 1]}[direction]
        label = label.flip(sides)
    return F.pad(label.long(), (0, size[1] - seen[1], 0, size[0] - seen[0]), value=fill)


def _nearest(length: int, wanted: int, device: torch.device) -> Tensor:
    """The ``wanted`` rows that stand for ``length`` ones, by the middle of each pixel."""
    return (2 * torch.arange(wanted, device=device) + 1) * length // (2 * wanted)
