"""Registered decode heads for segmentation."""

from .atm_head import ATMHead
from .segformer_head import SegformerHead
from .segmenter_head import SegmenterLinearHead, SegmenterMaskTransformerHead

__all__ = ["ATMHead", "SegformerHead", "SegmenterLinearHead", "SegmenterMaskTransformerHead"]
