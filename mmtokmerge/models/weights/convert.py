"""One entry for all sources of weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmtokmerge.models.weights.formats import FORMATS
from mmtokmerge.models.weights.rename import detect_format
from mmtokmerge.models.weights.segformer import SegFormerWeights, convert_segformer
from mmtokmerge.models.weights.vit import ViTWeights, convert_vit
from mmtokmerge.models.weights.vit_formats import VIT_FORMATS

ALL_FORMATS = {**FORMATS, **VIT_FORMATS}


def convert(
    state: Mapping[str, Tensor],
    source: str = "auto",
    to: str | None = None,
    grid: tuple[int, int] | None = None,
) -> SegFormerWeights | ViTWeights:
    """Convert the weights of a published SegFormer or plain ViT, and check them by loading them.

    Args:
        state: The source's state dict.
        source: A name in ``ALL_FORMATS``, or 'auto' to find it by the keys.
        to: 'backbone', 'segmentor', or None for what there is.
        grid: The grid of a plain ViT's positions, ``(h, w)`` patches; a square where None.

    Raises:
        InputError: If the weights are of no known source or do not make a whole model.
        ValueError: If ``source`` or ``to`` is unknown.
    """
    name = detect_format(state, ALL_FORMATS) if source == "auto" else source
    if name in VIT_FORMATS:
        return convert_vit(state, name, to, grid)
    return convert_segformer(state, name, to)
