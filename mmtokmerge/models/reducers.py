"""The reducers of a plain ViT, registered; a config lists them in ``reducers``."""

from __future__ import annotations

from mmtokmerge.layers.reducers import (
    ConditionalLocalPooling,
    GlobalBipartiteMerging,
    GlobalMergingByRate,
    LocalMergingByRate,
    Reducer,
    ThresholdReducer,
    ToMe,
)
from mmtokmerge.registry import MODELS

for _reducer in (
    ConditionalLocalPooling,
    GlobalBipartiteMerging,
    GlobalMergingByRate,
    LocalMergingByRate,
    ToMe,
):
    MODELS.register_module(module=_reducer)

__all__ = [
    "ConditionalLocalPooling",
    "GlobalBipartiteMerging",
    "GlobalMergingByRate",
    "LocalMergingByRate",
    "Reducer",
    "ThresholdReducer",
    "ToMe",
]
