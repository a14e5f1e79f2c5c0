"""Registered models: importing this module fills the ``MODELS`` registry."""

from __future__ import annotations

import importlib.util

from .backbones import BEiT, MiTPlusPlus, VisionTransformer
from .policies import (
    NetworkPolicy,
    OraclePolicy,
    PreviousFramePolicy,
    RandomPolicy,
    SegmentationPolicy,
)
from .reducers import ConditionalLocalPooling, GlobalBipartiteMerging, ToMe

__all__ = [
    "BEiT",
    "ConditionalLocalPooling",
    "GlobalBipartiteMerging",
    "MiTPlusPlus",
    "NetworkPolicy",
    "OraclePolicy",
    "PreviousFramePolicy",
    "RandomPolicy",
    "SegmentationPolicy",
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
    from .policies.policy_network import PolicyNetwork
    from .segmentors import SharingEncoderDecoder

    __all__ += [
        "ATMHead",
        "FusedMixVisionTransformer",
        "FusedVisionTransformer",
        "PolicyNetwork",
        "SegformerHead",
        "SegmenterLinearHead",
        "SegmenterMaskTransformerHead",
        "SharingEncoderDecoder",
    ]
