"""Registered decode heads for segmentation."""

from .segformer_head import SegformerHead

__all__ = ["SegformerHead"]
