"""The kernels of layers beside torch's own in fp64, at their first use on a device and type."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.kernels.gpu.layer_operators import depthwise_rows, norm_rows

CHANNELS = (24, 64, 200)
GRIDS = ((1, 1), (7, 5), (33, 70))
INTERPRETED = 2  # of the grids: what is interpreted takes minutes


def first_difference_of_layers(device: torch.device, dtype: torch.dtype) -> str | None:
    """What the kernels do otherwise than torch, in a sentence; None if they agree."""
    grids = GRIDS if device.type == "cuda" else GRIDS[:INTERPRETED]
    with torch.autocast(device.type, enabled=False):
        for channels in CHANNELS:
            generator = torch.Generator("cpu").manual_seed(channels)

            def draw(*size: int, by: torch.Generator = generator) -> Tensor:
                return torch.randn(size, generator=by, device="cpu").to(device, dtype)

            weight, bias = draw(channels), draw(channels)
            x = draw(3, 131, channels) + 2
            found = norm_rows(x, weight, bias, 1e-6)
            right = F.layer_norm(x.double(), (channels,), weight.double(), bias.double(), 1e-6)
            if not _close(found, right):
                return f"the norms of {channels} channels differ"
            taps = draw(channels, 1, 3, 3)
            for hw in grids:
                x = draw(2, hw[0] * hw[1], channels)
                grid = x.double().unflatten(1, hw).permute(0, 3, 1, 2)
                for own, gelu in ((bias, True), (None, False)):  # each is compiled by itself
                    shift = None if own is None else own.double()
                    right = F.conv2d(grid, taps.double(), shift, padding=1, groups=channels)
                    right = right.permute(0, 2, 3, 1).flatten(1, 2)
                    right = F.gelu(right) if gelu else right
                    if not _close(depthwise_rows(x, taps, own, hw, gelu), right):
                        return f"the depthwise convolutions of a grid of {hw} differ"
    return None


def _close(found: Tensor, expected: Tensor) -> bool:
    step = torch.finfo(found.dtype).eps
    return torch.allclose(found.double(), expected, atol=max(8 * step, 1e-5), rtol=2 * step)
