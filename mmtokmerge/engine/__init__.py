"""Launching, resuming and checkpoints: what the train and test tools stand on.

Configs are read and checked here, models are built and loaded; what a model computes lives in
``models``, what is measured of it above. Hooks have a folder of their own.
"""

from __future__ import annotations

from mmtokmerge.engine.amp import Bf16OptimWrapper
from mmtokmerge.engine.atomic_backend import AtomicLocalBackend
from mmtokmerge.engine.hooks import IterSeedHook, SafeCheckpointHook, StrictLoadHook
from mmtokmerge.engine.layer_decay import LayerDecayConstructor
from mmtokmerge.engine.seeding import SeededDataset, SeededDefaultSampler, SeededInfiniteSampler
from mmtokmerge.models.weights.safe_load import load_weights_only

__all__ = [
    "AtomicLocalBackend",
    "Bf16OptimWrapper",
    "IterSeedHook",
    "LayerDecayConstructor",
    "SafeCheckpointHook",
    "SeededDataset",
    "SeededDefaultSampler",
    "SeededInfiniteSampler",
    "StrictLoadHook",
    "load_weights_only",
]
