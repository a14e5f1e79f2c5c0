"""A plain ViT's sizes read off its weights, and the backbone that must take every one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmtokmerge.checks import one_of
from mmtokmerge.errors import InputError
from mmtokmerge.layers.vit_archs import VIT_ARCHS
from mmtokmerge.models.weights.load import load_strictly
from mmtokmerge.models.weights.rename import ENCODER, detect_format, rename
from mmtokmerge.models.weights.vit_formats import MMSEG_VIT, VIT_FORMATS

CLASS_TOKEN, DISTILLATION_TOKEN, POSITIONS = "cls_token", "dist_token", "pos_embed"
PATCH_WEIGHT, PATCH_BIAS = "patch_embed.projection.weight", "patch_embed.projection.bias"


@dataclass(frozen=True)
class ViTWeights:
    """Weights that ``mmtokmerge.VisionTransformer`` was seen to take whole.

    Args:
        source: Whose they are.
        arch: 't', 's', 'b' or 'l'.
        patch_size: Side of a patch in pixels.
        img_size: Height and width in pixels of the images that the positions were made for.
        final_norm: Whether the norm after the last layer is among them.
        distilled: Whether a distillation token is among them.
        norm_eps: Epsilon of the norms in the source where it is not 1e-6.
        parameters: Number of trained values.
        dropped: For each kind of weights that were left out, the source's keys.
        state_dict: The state dict of the backbone.
    """

    source: str
    arch: str
    patch_size: int
    img_size: tuple[int, int]
    final_norm: bool
    distilled: bool
    norm_eps: float | None
    parameters: int
    dropped: dict[str, list[str]]
    state_dict: dict[str, Tensor]


def convert_vit(
    state: Mapping[str, Tensor],
    source: str = "auto",
    to: str | None = None,
    grid: tuple[int, int] | None = None,
) -> ViTWeights:
    """Convert the weights of a published plain ViT or DeiT, and check them by loading them.

    The position embeddings stay as they are, ``(1, 1 + N, C)``, or ``(1, 2 + N, C)`` with a
    distillation token: the backbone resizes them to its own grid when it loads them, and leaves the
    distillation token out unless it was built with one.

    Args:
        state: The source's state dict.
        source: A name in ``VIT_FORMATS``, or 'auto' to find it by the keys.
        to: 'backbone' or None; a segmentor with a plain ViT loads as MMSegmentation has it.
        grid: The grid of the positions, ``(h, w)`` patches; a square where None.

    Raises:
        InputError: If a key is unknown, or the result is not a whole ViT of a known size.
        ValueError: If ``source`` is unknown.
    """
    one_of("source", source, ("auto", *VIT_FORMATS))
    if to not in (None, "backbone"):
        raise InputError(
            f"a plain ViT is converted to a backbone, not to a {to}: MMSegmentation's segmentors "
            "load as they are"
        )
    table = VIT_FORMATS[detect_format(state, VIT_FORMATS) if source == "auto" else source]
    renamed = rename(state, table)
    weights = {key.removeprefix(ENCODER): value for key, value in renamed.weights.items()}
    if table is MMSEG_VIT and PATCH_WEIGHT in weights:
        # mmseg 1.x builds its patch embedding without a bias
        zeros = torch.zeros(weights[PATCH_WEIGHT].shape[0])
        weights.setdefault(PATCH_BIAS, zeros)
    arch, patch_size = name_arch(weights), _patch_size(weights)
    distilled = DISTILLATION_TOKEN in weights
    height, width = grid or (0, 0)
    if height * width != _count_positions(weights, 1 + distilled):
        height = width = _grid_side(weights, 1 + distilled)
    img_size = (patch_size * height, patch_size * width)
    final_norm = "ln1.weight" in weights
    from mmtokmerge.models.backbones import VisionTransformer

    model = VisionTransformer(
        arch=arch,
        img_size=img_size,
        patch_size=patch_size,
        final_norm=final_norm,
        with_dist_token=distilled,
    )
    load_strictly(model, weights, "ViT")
    return ViTWeights(
        source=table.title,
        arch=arch,
        patch_size=patch_size,
        img_size=img_size,
        final_norm=final_norm,
        distilled=distilled,
        norm_eps=table.norm_eps,
        parameters=sum(value.numel() for value in model.parameters()),
        dropped=renamed.dropped,
        state_dict=model.state_dict(),  # which says the grid
    )


def name_arch(weights: Mapping[str, Tensor]) -> str:
    """'t', 's', 'b' or 'l', from the width and the number of layers.

    Raises:
        InputError: If it is none of them.
    """
    if CLASS_TOKEN not in weights:
        raise InputError("there is no class token: only ViTs that have one are known")
    width = weights[CLASS_TOKEN].shape[-1]
    depth = len({key.split(".")[1] for key in weights if key.startswith("layers.")})
    for name, arch in VIT_ARCHS.items():
        if (arch["embed_dims"], arch["num_layers"]) == (width, depth):
            return name
    known = "; ".join(f"{n} {a['embed_dims']} with {a['num_layers']}" for n, a in VIT_ARCHS.items())
    raise InputError(f"a ViT of width {width} with {depth} layers is none of those known: {known}")


def _patch_size(weights: Mapping[str, Tensor]) -> int:
    weight = weights.get(PATCH_WEIGHT)
    if weight is None or weight.ndim != 4 or weight.shape[-1] != weight.shape[-2]:
        raise InputError("there is no patch embedding of square patches")
    return weight.shape[-1]


def _grid_side(weights: Mapping[str, Tensor], ahead: int) -> int:
    """Patches on a side of the grid of the position embeddings, ``(1, ahead + side^2, C)``."""
    count = _count_positions(weights, ahead)
    side = math.isqrt(max(count, 0))
    if side == 0 or side * side != count:
        raise InputError(f"there are no position embeddings of a square grid, but {count} of them")
    return side


def _count_positions(weights: Mapping[str, Tensor], ahead: int) -> int:
    positions = weights.get(POSITIONS)
    return 0 if positions is None or positions.ndim != 3 else positions.shape[1] - ahead
