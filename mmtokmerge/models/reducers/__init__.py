"""What merges the tokens of a plain ViT; a config lists them in ``reducers``."""

from .base import Reducer, ThresholdReducer
from .conditional_local_pooling import ConditionalLocalPooling
from .global_bipartite_merging import GlobalBipartiteMerging
from .tome import ToMe

__all__ = [
    "ConditionalLocalPooling",
    "GlobalBipartiteMerging",
    "Reducer",
    "ThresholdReducer",
    "ToMe",
]
