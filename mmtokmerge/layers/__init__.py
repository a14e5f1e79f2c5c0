"""Transformer layers in plain torch, on tokens ``(B, N, C)`` whose grid is known."""

from .attention import EfficientAttention, MultiheadAttention, attend
from .drop_path import DropPath
from .mix_ffn import MixFFN
from .patch_embed import OverlapPatchEmbed

__all__ = [
    "DropPath",
    "EfficientAttention",
    "MixFFN",
    "MultiheadAttention",
    "OverlapPatchEmbed",
    "attend",
]
