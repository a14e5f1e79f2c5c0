"""What merges, in a few words for a title or the line below it."""

from __future__ import annotations

from collections.abc import Sequence

from mmtokmerge.layers.reducers import (
    ConditionalLocalPooling,
    DensityPeaks,
    EViT,
    FacilityLocation,
    GlobalBipartiteMerging,
    GridMerging,
    Reducer,
    ThresholdReducer,
    TokenClustering,
    ToMe,
)
from mmtokmerge.layers.reducers.base import CLASS_ATTENTION
from mmtokmerge.merging import BipartiteMatcher, Matcher
from mmtokmerge.models.policies import TokenSharing

SHORT_NAMES = {ConditionalLocalPooling: "CLAP", GlobalBipartiteMerging: "GBM"}
SHARES = (DensityPeaks, EViT, FacilityLocation, GridMerging, TokenClustering)
FEATURES = {
    "X": "tokens",
    "K": "keys",
    "Q": "queries",
    "V": "values",
    CLASS_ATTENTION: "attention of the class token",
}


def name_of(reducer: Reducer) -> str:
    """The reducer's name in the paper, or its class's."""
    return SHORT_NAMES.get(type(reducer), type(reducer).__name__)


def name_layers(layers: Sequence[int]) -> str:
    """Sorted layers in words: 'layer 5', 'layers 1 to 12' or 'layers 1, 4, 9'."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1:
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layers {', '.join(map(str, layers))}"


def describe_reducer(reducer: Reducer) -> str:
    """What a reducer merges by, such as 'windows of 2×2, τ 0.88 (auto)'."""
    words = []
    if isinstance(reducer, ConditionalLocalPooling):
        words.append("windows of {}×{}".format(*reducer.window))
    if isinstance(reducer, ThresholdReducer):
        words.append(f"τ {float(reducer.threshold):.4g}" + (" (auto)" if reducer.auto else ""))
    if isinstance(reducer, ToMe):
        by_rate = reducer.num_merged is None
        words.append(
            f"{reducer.rate:.0%} of a layer's tokens"
            if by_rate
            else f"{reducer.num_merged} tokens a layer"
        )
    if isinstance(reducer, SHARES):
        words.append(f"{reducer.keep:.0%} left")
    if reducer.feature != "X":
        words.append(f"{FEATURES[reducer.feature]} compared")
    if reducer.position == "after":
        words.append("after the MLP")
    if reducer.operation != "mean":
        words.append({"random": "random pick", "max": "largest values"}[reducer.operation])
    return ", ".join(words)


def describe_matcher(matcher: Matcher) -> str:
    """A matcher, such as 'bsm, rate 0.8, cells of 4×4'."""
    sy, sx = matcher.stride
    rate = f" rate {matcher.rate:g}," if isinstance(matcher, BipartiteMatcher) else ""
    return f"{matcher.mode},{rate} cells of {sy}×{sx}"


def describe_sharing(sharing: TokenSharing) -> str:
    """What decides and how much, such as 'NetworkPolicy, S = 103'."""
    policy = type(sharing.policy).__name__
    if sharing.threshold is not None:
        return f"{policy}, scores over {sharing.threshold:g}"
    number = sharing.num_shared
    if isinstance(number, float):
        return f"{policy}, S = {number:.0%} of the superpatches"
    return f"{policy}, S = {number}"
