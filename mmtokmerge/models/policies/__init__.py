"""Policies of CTS: which superpatches share a token."""

from .base import Normalisation, Policy, Scene
from .frozen import FrozenNetwork
from .network import NetworkPolicy
from .oracle import OraclePolicy
from .previous_frame import PreviousFramePolicy
from .random import RandomPolicy
from .segmentation import SegmentationPolicy
from .token_sharing import TokenSharing

__all__ = [
    "FrozenNetwork",
    "NetworkPolicy",
    "Normalisation",
    "OraclePolicy",
    "Policy",
    "PreviousFramePolicy",
    "RandomPolicy",
    "Scene",
    "SegmentationPolicy",
    "TokenSharing",
]
