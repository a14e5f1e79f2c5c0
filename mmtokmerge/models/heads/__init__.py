"""Registered heads: decode heads for segmentation, which need mmseg, and mmpose's pose head."""

from __future__ import annotations

from importlib.util import find_spec

__all__: list[str] = []

if find_spec("mmseg") is not None:
    from mmtokmerge.models.heads.atm_head import ATMHead
    from mmtokmerge.models.heads.mask2former_head import Mask2FormerHead
    from mmtokmerge.models.heads.segformer_head import SegformerHead
    from mmtokmerge.models.heads.segmenter_head import (
        SegmenterLinearHead,
        SegmenterMaskTransformerHead,
    )

    __all__ += [
        "ATMHead",
        "Mask2FormerHead",
        "SegformerHead",
        "SegmenterLinearHead",
        "SegmenterMaskTransformerHead",
    ]
