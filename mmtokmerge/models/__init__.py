"""Registered models: importing this module fills the ``MODELS`` registry.

What mmengine builds from a config, and how weights reach it. Layers and merging are ``layers``' and
``merging``'s, which need no mm* package.
"""

from __future__ import annotations

import importlib.util

from mmtokmerge.quiet import quiet_imports

if importlib.util.find_spec("mmseg") is not None:
    with quiet_imports():  # here for what it prints of operators that are not used
        import mmseg.models  # noqa: F401

from mmtokmerge.layers.reducers import ConditionalLocalPooling, GlobalBipartiteMerging, ToMe
from mmtokmerge.models import reducers  # noqa: F401  (registers all of them)
from mmtokmerge.models.backbones import EVA, BEiT, MiTPlusPlus, VisionTransformer, ViTAdapter
from mmtokmerge.models.policies import (
    NetworkPolicy,
    OraclePolicy,
    PreviousFramePolicy,
    RandomPolicy,
    SegmentationPolicy,
)

__all__ = [
    "EVA",
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
    "ViTAdapter",
    "VisionTransformer",
]

if importlib.util.find_spec("mmseg") is not None:
    from mmtokmerge.models.backbones.stock import FusedMixVisionTransformer, FusedVisionTransformer
    from mmtokmerge.models.heads import (
        ATMHead,
        Mask2FormerHead,
        SegformerHead,
        SegmenterLinearHead,
        SegmenterMaskTransformerHead,
    )
    from mmtokmerge.models.policies.policy_network import PolicyNetwork
    from mmtokmerge.models.segmentors import SharingEncoderDecoder

    __all__ += [
        "ATMHead",
        "FusedMixVisionTransformer",
        "FusedVisionTransformer",
        "Mask2FormerHead",
        "PolicyNetwork",
        "SegformerHead",
        "SegmenterLinearHead",
        "SegmenterMaskTransformerHead",
        "SharingEncoderDecoder",
    ]
