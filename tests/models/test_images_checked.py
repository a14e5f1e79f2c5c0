"""A backbone that is given something else than images says so in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmtokmerge.errors import InputError
from mmtokmerge.models.backbones import BEiT, MiTPlusPlus, VisionTransformer

ARCH = dict(embed_dims=16, num_layers=1, num_heads=2)
MODELS: dict[str, Any] = {
    "MiT++": lambda: MiTPlusPlus(dict(embed_dims=8, num_layers=(1, 1, 1, 1)), merging="hq"),
    "ViT": lambda: VisionTransformer(ARCH, img_size=64),
    "BEiT": lambda: BEiT(ARCH, img_size=64),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(1, 3, 0, 64), r"got \(1, 3, 0, 64\)"),
        (torch.zeros(1, 1, 64, 64), r"\(B, 3, H, W\).*got \(1, 1, 64, 64\)"),
        (torch.zeros(1, 4, 64, 64), r"got \(1, 4, 64, 64\)"),
        (torch.zeros(3, 64, 64), r"got \(3, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "normalised, got torch.uint8"),
    ],
)
def test_what_is_no_image_is_said(name: str, images: torch.Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        MODELS[name]()(images)
