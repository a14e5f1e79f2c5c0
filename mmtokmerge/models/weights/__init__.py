"""Published weights of other projects, renamed and reshaped for the models of this one."""

from __future__ import annotations

from .convert import ALL_FORMATS, convert
from .formats import FORMATS, Rule, WeightFormat
from .rename import Renamed, detect_format, rename
from .segformer import SegFormerWeights, convert_segformer
from .vit import ViTWeights, convert_vit
from .vit_formats import VIT_FORMATS

__all__ = [
    "ALL_FORMATS",
    "FORMATS",
    "VIT_FORMATS",
    "Renamed",
    "Rule",
    "SegFormerWeights",
    "ViTWeights",
    "WeightFormat",
    "convert",
    "convert_segformer",
    "convert_vit",
    "detect_format",
    "rename",
]
