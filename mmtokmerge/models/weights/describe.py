"""What weights look like, for the sentence that refuses them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from mmtokmerge.layers.vit_archs import VIT_ARCHS
from mmtokmerge.merging.segformer.arch import MIT_ARCHS

_MIT_PATCH = "layers.0.0.projection.weight"
_VIT_PATCH = "patch_embed.projection.weight"


def describe_weights(weights: Mapping[str, Tensor], modules: Collection[str] = ()) -> str:
    """A few words such as "b1's weights"; '' where nothing helpful can be said.

    Args:
        weights: A state dict.
        modules: Names of the top modules of the model that was to be loaded.
    """
    bare = {key.removeprefix("backbone."): value for key, value in weights.items()}
    if _MIT_PATCH in bare:
        width = bare[_MIT_PATCH].shape[0]
        depths = tuple(_count(bare, f"layers.{stage}.1.") for stage in range(4))
        for name, arch in MIT_ARCHS.items():
            if (arch.embed_dims, arch.num_layers) == (width, depths):
                channels = bare[_MIT_PATCH].shape[1]
                rest = "" if channels == 3 else f" for images of {channels} channels"
                return f"{name}'s weights{rest}"
        return f"a MiT's weights of width {width} with {depths} layers"
    if _VIT_PATCH in bare:
        width, depth = bare[_VIT_PATCH].shape[0], _count(bare, "layers.")
        for name, arch in VIT_ARCHS.items():
            if (arch["embed_dims"], arch["num_layers"]) == (width, depth):
                return f"ViT-{name.upper()}'s weights"
        return f"a ViT's weights of width {width} with {depth} layers"
    parts = sorted({key.split(".")[0] for key in weights})
    if set(parts) & set(modules):
        return ""
    return f"weights of {', '.join(parts[:6])}" + (" and more" if len(parts) > 6 else "")


def _count(weights: Mapping[str, Tensor], start: str) -> int:
    return len({key[len(start) :].split(".")[0] for key in weights if key.startswith(start)})
