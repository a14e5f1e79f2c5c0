"""Registered backbones."""

from .mit_plus_plus import MiTPlusPlus

__all__ = ["MiTPlusPlus"]
