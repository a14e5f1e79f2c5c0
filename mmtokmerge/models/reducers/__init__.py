"""What merges the tokens of a plain ViT; a config lists them in ``reducers``."""

from mmtokmerge.models.reducers.base import Reducer, ThresholdReducer
from mmtokmerge.models.reducers.conditional_local_pooling import ConditionalLocalPooling
from mmtokmerge.models.reducers.global_bipartite_merging import GlobalBipartiteMerging
from mmtokmerge.models.reducers.tome import ToMe

__all__ = [
    "ConditionalLocalPooling",
    "GlobalBipartiteMerging",
    "Reducer",
    "ThresholdReducer",
    "ToMe",
]
