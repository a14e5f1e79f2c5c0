"""Transformer layers in plain torch, on tokens ``(B, N, C)`` whose grid is known."""

from .attention import EfficientAttention, MultiheadAttention, attend
from .beit_layer import BEiTAttention, BEiTLayer
from .drop_path import DropPath
from .mix_ffn import MixFFN
from .mlp import MLP
from .patch_embed import OverlapPatchEmbed
from .relative_position_bias import RelativePositions
from .self_attention import SelfAttention
from .tokens import TokenFeatures
from .vit_layer import ViTLayer

__all__ = [
    "MLP",
    "BEiTAttention",
    "BEiTLayer",
    "DropPath",
    "EfficientAttention",
    "MixFFN",
    "MultiheadAttention",
    "OverlapPatchEmbed",
    "RelativePositions",
    "SelfAttention",
    "TokenFeatures",
    "ViTLayer",
    "attend",
]
