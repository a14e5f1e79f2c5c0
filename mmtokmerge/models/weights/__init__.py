"""Published weights of other projects, renamed and reshaped for the models of this one."""

from __future__ import annotations

from mmtokmerge.models.weights.convert import ALL_FORMATS, convert
from mmtokmerge.models.weights.formats import FORMATS, Rule, WeightFormat
from mmtokmerge.models.weights.rename import Renamed, detect_format, rename
from mmtokmerge.models.weights.segformer import SegFormerWeights, convert_segformer
from mmtokmerge.models.weights.vit import ViTWeights, convert_vit
from mmtokmerge.models.weights.vit_formats import VIT_FORMATS

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
