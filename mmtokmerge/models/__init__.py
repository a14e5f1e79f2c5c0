"""Registered models: importing this module fills the ``MODELS`` registry."""

from __future__ import annotations

import importlib.util

from .backbones import MiTPlusPlus

__all__ = ["MiTPlusPlus"]

if importlib.util.find_spec("mmseg") is not None:
    from .backbones.stock import FusedMixVisionTransformer
    from .decode_heads import SegformerHead

    __all__ += ["FusedMixVisionTransformer", "SegformerHead"]
