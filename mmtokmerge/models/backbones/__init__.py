"""Registered backbones."""

from .beit import BEiT
from .mit_plus_plus import MiTPlusPlus
from .vision_transformer import VisionTransformer

__all__ = ["BEiT", "MiTPlusPlus", "VisionTransformer"]
