"""Registered backbones."""

from .mit_plus_plus import MiTPlusPlus
from .vision_transformer import VisionTransformer

__all__ = ["MiTPlusPlus", "VisionTransformer"]
