"""Registered models: importing this module fills the ``MODELS`` registry."""

from __future__ import annotations

import importlib.util

from .backbones import MiTPlusPlus, VisionTransformer
from .policies import NetworkPolicy, OraclePolicy, RandomPolicy
from .reducers import ConditionalLocalPooling, GlobalBipartiteMerging, ToMe

__all__ = [
    "ConditionalLocalPooling",
    "GlobalBipartiteMerging",
    "MiTPlusPlus",
    "NetworkPolicy",
    "OraclePolicy",
    "RandomPolicy",
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
