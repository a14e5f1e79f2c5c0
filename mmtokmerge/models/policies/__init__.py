"""Policies of CTS: which superpatches share a token."""

from mmtokmerge.models.policies.base import Normalisation, Policy, PolicyInput
from mmtokmerge.models.policies.frozen import FrozenNetwork
from mmtokmerge.models.policies.network import NetworkPolicy
from mmtokmerge.models.policies.oracle import OraclePolicy
from mmtokmerge.models.policies.previous_frame import PreviousFramePolicy
from mmtokmerge.models.policies.random import RandomPolicy
from mmtokmerge.models.policies.segmentation import SegmentationPolicy
from mmtokmerge.models.policies.token_sharing import TokenSharing

__all__ = [
    "FrozenNetwork",
    "NetworkPolicy",
    "Normalisation",
    "OraclePolicy",
    "Policy",
    "PolicyInput",
    "PreviousFramePolicy",
    "RandomPolicy",
    "SegmentationPolicy",
    "TokenSharing",
]
