"""Registered hooks of the train and test tools."""

from __future__ import annotations

import importlib.util

from mmtokmerge.engine.hooks.checkpoint import SafeCheckpointHook
from mmtokmerge.engine.hooks.seed import IterSeedHook
from mmtokmerge.engine.hooks.strict_load import StrictLoadHook

__all__ = ["IterSeedHook", "SafeCheckpointHook", "StrictLoadHook"]

if importlib.util.find_spec("mmseg") is not None:
    from mmtokmerge.engine.hooks.visualization import MergeVisualizationHook

    __all__ += ["MergeVisualizationHook"]
