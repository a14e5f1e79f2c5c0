"""Registered models: importing this module fills the ``MODELS`` registry."""

from __future__ import annotations

import importlib.util

from .backbones import MiTPlusPlus, VisionTransformer
from .reducers import ConditionalLocalPooling, GlobalBipartiteMerging, ToMe

__all__ = [
    "ConditionalLocalPooling",
    "GlobalBipartiteMerging",
    "MiTPlusPlus",
    "ToMe",
    "VisionTransformer",
]

if importlib.util.find_spec("mmseg") is not None:
    from .backbones.stock import FusedMixVisionTransformer, FusedVisionTransformer
    from .decode_heads import (
        ATMHead,
        SegformerHead,
        SegmenterLinearHead,
        SegmenterMaskTransformerHead,
    )
    from .policies import PolicyNetwork

    __all__ += [
        "ATMHead",
        "FusedMixVisionTransformer",
        "FusedVisionTransformer",
        "PolicyNetwork",
        "SegformerHead",
        "SegmenterLinearHead",
        "SegmenterMaskTransformerHead",
    ]
