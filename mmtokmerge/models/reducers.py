"""The reducers of a plain ViT, registered; a config lists them in ``reducers``."""

from __future__ import annotations

from mmtokmerge.layers.reducers import (
    ConditionalLocalPooling,
    EViT,
    GlobalBipartiteMerging,
    GlobalMergingByRate,
    LocalMergingByRate,
    PiToMe,
    Reducer,
    ThresholdReducer,
    TokenClustering,
    ToMe,
)
from mmtokmerge.registry import MODELS

for _reducer in (
    ConditionalLocalPooling,
    EViT,
    GlobalBipartiteMerging,
    GlobalMergingByRate,
    LocalMergingByRate,
    PiToMe,
    TokenClustering,
    ToMe,
):
    MODELS.register_module(module=_reducer)

__all__ = [
    "ConditionalLocalPooling",
    "EViT",
    "GlobalBipartiteMerging",
    "GlobalMergingByRate",
    "LocalMergingByRate",
    "PiToMe",
    "Reducer",
    "ThresholdReducer",
    "ToMe",
    "TokenClustering",
]
