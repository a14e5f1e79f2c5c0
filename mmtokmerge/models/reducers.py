"""The reducers of a plain ViT, registered; a config lists them in ``reducers``."""

from __future__ import annotations

from mmtokmerge.layers.reducers import (
    ConditionalLocalPooling,
    DensityPeaks,
    EViT,
    FacilityLocation,
    GlobalBipartiteMerging,
    GlobalMergingByRate,
    GridMerging,
    LocalMergingByRate,
    MutualPairMerging,
    PiToMe,
    Reducer,
    ThresholdReducer,
    TokenClustering,
    ToMe,
)
from mmtokmerge.registry import MODELS

for _reducer in (
    ConditionalLocalPooling,
    DensityPeaks,
    EViT,
    FacilityLocation,
    GlobalBipartiteMerging,
    GlobalMergingByRate,
    GridMerging,
    LocalMergingByRate,
    MutualPairMerging,
    PiToMe,
    TokenClustering,
    ToMe,
):
    MODELS.register_module(module=_reducer)

__all__ = [
    "ConditionalLocalPooling",
    "DensityPeaks",
    "EViT",
    "FacilityLocation",
    "GlobalBipartiteMerging",
    "GlobalMergingByRate",
    "GridMerging",
    "LocalMergingByRate",
    "MutualPairMerging",
    "PiToMe",
    "Reducer",
    "ThresholdReducer",
    "ToMe",
    "TokenClustering",
]
