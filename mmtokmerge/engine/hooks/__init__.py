"""Registered hooks of the train and test tools."""

from __future__ import annotations

import importlib.util

from mmtokmerge.engine.hooks.checkpoint import SafeCheckpointHook
from mmtokmerge.engine.hooks.seed import IterSeedHook
from mmtokmerge.engine.hooks.strict_load import StrictLoadHook
from mmtokmerge.engine.hooks.training_checks import TrainingCheckHook

__all__ = ["IterSeedHook", "SafeCheckpointHook", "StrictLoadHook", "TrainingCheckHook"]

if importlib.util.find_spec("mmseg") is not None:
    from mmtokmerge.engine.hooks.visualization import MergeVisualizationHook

    __all__ += ["MergeVisualizationHook"]
