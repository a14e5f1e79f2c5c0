"""What a backbone is given, checked before a convolution says it in its own words."""

from __future__ import annotations

from torch import Tensor

from mmtokmerge.errors import InputError


def check_images(x: Tensor, channels: int) -> None:
    """Refuse what is no batch of images ``(B, channels, H, W)`` in floating point.

    Raises:
        InputError: With the shape, and what is allowed.
    """
    if x.dim() != 4 or x.shape[1] != channels or 0 in x.shape[2:]:
        raise InputError(
            f"images must be (B, {channels}, H, W) with sides of at least one pixel, got "
            f"{tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise InputError(f"images must be in floating point, normalised, got {x.dtype}")
