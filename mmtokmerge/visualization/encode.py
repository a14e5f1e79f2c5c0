"""Encoding one image of a batch once more, to see what is merged of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.models.backbones import VisionTransformer
from mmtokmerge.visualization.merged import MergedTokens
from mmtokmerge.visualization.record import record_assignments


@torch.no_grad()
def encode_one(
    model: nn.Module, batch: Mapping[str, Any], index: int = 0, block: str = "first"
) -> tuple[Tensor, list[MergedTokens], str]:
    """Encode one image of a test batch again, and record what is merged.

    Args:
        model: A segmentor of mmseg with a ``backbone``, in eval mode.
        batch: A batch as ``model.test_step`` takes it, or the batch of a test-time augmentation,
            whose first view is taken.
        index: Which image of the batch.
        block: See :func:`record_assignments`.

    Returns:
        The pixels ``(3, H, W)`` that the encoder saw, RGB from 0 to 255, padding included, a plain
        ViT's own where its patch does not divide the image too; the
        record for a batch of this one image; and a note that says what part or view of the image
        this is, '' for the whole image. A model tested by sliding windows encodes its first window.
    """
    inputs, samples, note = batch["inputs"], batch.get("data_samples"), ""
    if not isinstance(inputs[0], Tensor):
        inputs, samples, note = inputs[0], samples[0] if samples else None, "first augmented view"
    one = dict(inputs=[inputs[index]], data_samples=[samples[index]] if samples else None)
    whole = x = model.data_preprocessor(one, False)["inputs"]  # (1, 3, H, W)
    height, width = x.shape[2:]
    pixels = to_rgb(inputs[index])
    pixels = nn.functional.pad(pixels, (0, width - pixels.shape[2], 0, height - pixels.shape[1]))
    test_cfg = getattr(model, "test_cfg", None) or {}
    if test_cfg.get("mode") == "slide":
        rows, columns = (min(a, b) for a, b in zip(test_cfg["crop_size"], (height, width)))
        if (rows, columns) != (height, width):
            note = f"first window, {rows}×{columns} of {height}×{width}" + (note and f", {note}")
        x, pixels = x[:, :, :rows, :columns], pixels[:, :rows, :columns]
    serving = getattr(model, "serving", lambda *_: nullcontext())
    window = (x.shape[2], x.shape[3])
    with (
        serving(whole, one["data_samples"], window),
        record_assignments(model.backbone, block) as records,
    ):
        model.backbone(x)
    return pad_to_patches(pixels, model.backbone), records, note


def to_rgb(image: Tensor) -> Tensor:
    """What a person sees of an image ``(C, H, W)`` as mmseg loads it, BGR first.

    Gray is shown gray, of more than three channels the first three, of two the first. Values that
    are no bytes, fractions up to 1 among them, are stretched from the least to the most.

    Returns:
        ``(3, H, W)`` from 0 to 255.
    """
    shown = image[:3].flip(0) if len(image) >= 3 else image[:1].expand(3, -1, -1)
    if image.dtype == torch.uint8:
        return shown
    shown = shown.float().nan_to_num()
    low, high = shown.min(), shown.max()
    if float(low) >= 0 and 1 < float(high) <= 255:
        return shown
    return (shown - low) * (255 / (high - low).clamp(min=1e-6))


def pad_to_patches(pixels: Tensor, backbone: nn.Module) -> Tensor:
    """Pad ``(3, H, W)`` at the right and bottom to the whole patches of a plain ViT."""
    if not isinstance(backbone, VisionTransformer):
        return pixels
    below, right = (-side % backbone.patch_size for side in pixels.shape[1:])
    return nn.functional.pad(pixels, (0, right, 0, below))
