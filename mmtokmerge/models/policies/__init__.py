"""Policies of CTS: which superpatches share a token."""

from .policy_network import PolicyNetwork

__all__ = ["PolicyNetwork"]
