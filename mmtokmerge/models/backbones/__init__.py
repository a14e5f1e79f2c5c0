"""Registered backbones: MiT++ and the plain ViTs; published state dicts load as they are."""

from mmtokmerge.models.backbones.beit import BEiT
from mmtokmerge.models.backbones.eva import EVA
from mmtokmerge.models.backbones.mit_plus_plus import MiTPlusPlus
from mmtokmerge.models.backbones.vision_transformer import VisionTransformer
from mmtokmerge.models.backbones.vit_adapter import ViTAdapter, plain_vit_of

__all__ = ["EVA", "BEiT", "MiTPlusPlus", "ViTAdapter", "VisionTransformer", "plain_vit_of"]
