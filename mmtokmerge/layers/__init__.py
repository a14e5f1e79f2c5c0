"""Transformer layers in plain torch, on tokens ``(B, N, C)`` whose grid is known."""

from .attention import EfficientAttention, MultiheadAttention
from .beit_layer import BEiTAttention, BEiTLayer
from .dot_product import attend
from .drop_path import DropPath
from .linear import Linear, linear
from .mix_ffn import MixFFN
from .mlp import MLP
from .patch_embed import OverlapPatchEmbed
from .plain_patch_embed import PatchEmbed
from .relative_position_bias import RelativePositions
from .self_attention import SelfAttention
from .tokens import TokenFeatures
from .unpadded import attend_unpadded
from .vit_layer import ViTLayer

__all__ = [
    "MLP",
    "BEiTAttention",
    "BEiTLayer",
    "DropPath",
    "EfficientAttention",
    "Linear",
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
    "linear",
]
