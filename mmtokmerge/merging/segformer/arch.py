"""The sizes of SegFormer's encoders, B0 to B5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmtokmerge.checks import is_whole
from mmtokmerge.errors import InputError, InputTypeError


@dataclass(frozen=True)
class MiTArch:
    """Sizes of a Mix Vision Transformer with four stages.

    Args:
        embed_dims: Channels of a head; stage i has ``embed_dims * num_heads[i]`` channels.
        num_layers: Layers of each stage.
        num_heads: Heads of each stage.
        sr_ratios: Spatial reduction R of keys and values in each stage.
        patch_sizes: Kernel of each patch embedding in pixels.
        strides: Stride of each patch embedding.
        mlp_ratio: Hidden channels of the MixFFN over the stage's channels.
        qkv_bias: Whether the attention's projections have a bias.
    """

    embed_dims: int
    num_layers: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    sr_ratios: tuple[int, int, int, int] = (8, 4, 2, 1)
    patch_sizes: tuple[int, int, int, int] = (7, 3, 3, 3)
    strides: tuple[int, int, int, int] = (4, 2, 2, 2)
    mlp_ratio: int = 4
    qkv_bias: bool = True

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dims * heads for heads in self.num_heads)

    def grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """The token grid ``(h, w)`` of each stage for an image of ``height`` x ``width`` pixels."""
        grids = []
        for kernel, stride in zip(self.patch_sizes, self.strides):
            padding = 2 * (kernel // 2)
            height = (height + padding - kernel) // stride + 1
            width = (width + padding - kernel) // stride + 1
            grids.append((height, width))
        return grids

    def reduced(self, stage: int, hw: tuple[int, int]) -> tuple[int, int]:
        """The grid of keys and values of a stage whose tokens have the grid ``hw``."""
        ratio = self.sr_ratios[stage]
        return max(1, hw[0] // ratio), max(1, hw[1] // ratio)


MIT_ARCHS = {
    "b0": MiTArch(32, (2, 2, 2, 2)),
    "b1": MiTArch(64, (2, 2, 2, 2)),
    "b2": MiTArch(64, (3, 4, 6, 3)),
    "b3": MiTArch(64, (3, 4, 18, 3)),
    "b4": MiTArch(64, (3, 8, 27, 3)),
    "b5": MiTArch(64, (3, 6, 40, 3)),
}


def read_arch(arch: str | Mapping[str, Any]) -> MiTArch:
    """Read the ``arch`` of a config: 'b0' to 'b5' or a dict of :class:`MiTArch`'s fields.

    Raises:
        TypeError: If it is neither, or a field has the wrong type.
        ValueError: If the name, a field or a number of stages is wrong.
    """
    if isinstance(arch, str):
        if arch.lower() not in MIT_ARCHS:
            raise InputError(f"arch={arch!r} is unknown, allowed are {', '.join(MIT_ARCHS)}")
        return MIT_ARCHS[arch.lower()]
    if not isinstance(arch, Mapping):
        raise InputTypeError(f"arch must be a name or a dict, got {arch!r}")
    allowed = {field.name for field in fields(MiTArch)}
    for key in arch:
        if key not in allowed:
            raise InputError(f"arch: unknown key {key!r}, allowed are {', '.join(sorted(allowed))}")
    for key in ("embed_dims", "num_layers"):
        if key not in arch:
            raise InputError(f"arch: {key!r} is missing, a dict needs embed_dims and num_layers")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, (list, tuple)) else value
        for key, value in arch.items()
    }
    for key, value in values.items():
        _check_field(key, value)
    return MiTArch(**values)


def _check_field(key: str, value: Any) -> None:
    if key == "qkv_bias":
        if not isinstance(value, bool):
            raise InputTypeError(f"arch: qkv_bias must be True or False, got {value!r}")
        return
    numbers = value if isinstance(value, tuple) else (value,)
    if any(not is_whole(n) or n < 1 for n in numbers):
        raise InputTypeError(f"arch: {key} must hold whole numbers from 1 up, got {value!r}")
    if (key in ("embed_dims", "mlp_ratio")) == isinstance(value, tuple):
        wanted = "one number" if isinstance(value, tuple) else "four numbers"
        raise InputTypeError(f"arch: {key} must be {wanted}, got {value!r}")
    if isinstance(value, tuple) and len(value) != 4:
        raise InputError(f"arch: {key} must have four stages, got {len(value)}: {value!r}")
