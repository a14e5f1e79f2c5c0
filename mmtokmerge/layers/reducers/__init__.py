"""What merges the tokens of a plain ViT; a config lists them in ``reducers``."""

from mmtokmerge.layers.reducers.base import Reducer, ThresholdReducer
from mmtokmerge.layers.reducers.conditional_local_pooling import ConditionalLocalPooling
from mmtokmerge.layers.reducers.density_peaks import DensityPeaks
from mmtokmerge.layers.reducers.evit import EViT
from mmtokmerge.layers.reducers.facility_location import FacilityLocation
from mmtokmerge.layers.reducers.fixed_rate import GlobalMergingByRate, LocalMergingByRate
from mmtokmerge.layers.reducers.global_bipartite_merging import GlobalBipartiteMerging
from mmtokmerge.layers.reducers.grid_merging import GridMerging
from mmtokmerge.layers.reducers.mutual_pairs import MutualPairMerging
from mmtokmerge.layers.reducers.pitome import PiToMe
from mmtokmerge.layers.reducers.token_clustering import TokenClustering
from mmtokmerge.layers.reducers.tome import ToMe

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
