"""Published weights of other projects, renamed and reshaped for the models of this one."""

from __future__ import annotations

from .formats import FORMATS, Rule, WeightFormat
from .rename import Renamed, detect_format, rename
from .segformer import SegFormerWeights, convert_segformer

__all__ = [
    "FORMATS",
    "Renamed",
    "Rule",
    "SegFormerWeights",
    "WeightFormat",
    "convert_segformer",
    "detect_format",
    "rename",
]
