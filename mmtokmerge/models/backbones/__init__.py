"""Registered backbones: MiT++ and the plain ViTs; published state dicts load as they are."""

from mmtokmerge.models.backbones.beit import BEiT
from mmtokmerge.models.backbones.mit_plus_plus import MiTPlusPlus
from mmtokmerge.models.backbones.vision_transformer import VisionTransformer

__all__ = ["BEiT", "MiTPlusPlus", "VisionTransformer"]
