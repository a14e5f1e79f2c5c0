"""Transformer layers in plain torch, on tokens ``(B, N, C)`` whose grid is known.

Attention with merging around it, MixFFN, patch embeddings, a plain ViT's layer and what reduces its
tokens. Imports torch, ``merging`` and ``kernels``, and no mm* package.
"""

from mmtokmerge.kernels.attention import attend
from mmtokmerge.kernels.unpadded import attend_unpadded
from mmtokmerge.layers.attention import EfficientAttention, MultiheadAttention
from mmtokmerge.layers.beit_layer import BEiTAttention, BEiTLayer
from mmtokmerge.layers.drop_path import DropPath
from mmtokmerge.layers.mix_ffn import MixFFN
from mmtokmerge.layers.mlp import MLP
from mmtokmerge.layers.patch_embed import OverlapPatchEmbed
from mmtokmerge.layers.plain_patch_embed import PatchEmbed
from mmtokmerge.layers.relative_position_bias import RelativePositions
from mmtokmerge.layers.self_attention import SelfAttention
from mmtokmerge.layers.tokens import TokenFeatures
from mmtokmerge.layers.vit_layer import ViTLayer

__all__ = [
    "MLP",
    "BEiTAttention",
    "BEiTLayer",
    "DropPath",
    "EfficientAttention",
    "MixFFN",
    "MultiheadAttention",
    "OverlapPatchEmbed",
    "PatchEmbed",
    "RelativePositions",
    "SelfAttention",
    "TokenFeatures",
    "ViTLayer",
    "attend",
    "attend_unpadded",
]
