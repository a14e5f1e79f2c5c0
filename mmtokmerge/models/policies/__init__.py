"""Policies of CTS: which superpatches share a token."""

from .base import Normalisation, Policy, Scene
from .network import NetworkPolicy
from .oracle import OraclePolicy
from .random import RandomPolicy
from .token_sharing import TokenSharing

__all__ = [
    "NetworkPolicy",
    "Normalisation",
    "OraclePolicy",
    "Policy",
    "RandomPolicy",
    "Scene",
    "TokenSharing",
]
