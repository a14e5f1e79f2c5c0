"""What each reducer of a plain ViT merges, by hooks on the reducers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.local_pooling import window_similarity
from mmtokmerge.models.reducers import (
    ConditionalLocalPooling,
    GlobalBipartiteMerging,
    Reducer,
    ThresholdReducer,
    ToMe,
)
from mmtokmerge.visualization.merged import MergedTokens, WindowSimilarity

SHORT_NAMES = {ConditionalLocalPooling: "CLAP", GlobalBipartiteMerging: "GBM"}
FEATURES = {"X": "tokens", "K": "keys", "Q": "queries", "V": "values"}


def reducers_of(model: nn.Module) -> Iterator[Reducer]:
    """All reducers that a model holds."""
    return (module for module in model.modules() if isinstance(module, Reducer))


@contextmanager
def record_reducers(model: nn.Module, records: list[MergedTokens]) -> Iterator[None]:
    """Append to ``records`` what each reducer merges while the context is open.

    The hooks see what the reducers are given and return; the forward pass is not touched.

    Args:
        model: A model that holds reducers.
        records: Grows by one entry for each reducer when it has acted in its last layer, in the
            order of running. Each holds all that stands together there, what the reducers before
            merged too.
    """
    with ExitStack() as stack:
        for reducer in reducers_of(model):
            handle = reducer.register_forward_hook(_Recorder(records, reducer), with_kwargs=True)
            stack.callback(handle.remove)
        yield


class _Recorder:
    """The hook of one reducer, which is called once in each of its layers."""

    def __init__(self, records: list[MergedTokens], reducer: Reducer) -> None:
        self.records = records
        self.layers = sorted(reducer.layers)
        self.calls = 0
        self.windows: WindowSimilarity | None = None

    @torch.no_grad()
    def __call__(
        self, reducer: Reducer, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        inputs = dict(zip(("tokens", "feature", "given", "hw"), args), **kwargs)
        feature, given, hw = inputs["feature"], inputs["given"], inputs["hw"]
        if self.calls == 0:
            self.windows = self._windows(reducer, feature, given, hw)
        self.calls += 1
        if self.calls < len(self.layers):
            return
        assignment = output[1]
        if not reducer.reduce:
            step = reducer.match(feature, given, hw)
            assignment = step if given is None else given.compose(step)
        place = f"After {name_of(reducer)} in {name_layers(self.layers)}"
        how = describe(reducer)
        self.records.append(
            MergedTokens(place, how, assignment, hw, removed=reducer.reduce, windows=self.windows)
        )
        self.calls = 0

    def _windows(
        self,
        reducer: Reducer,
        feature: torch.Tensor,
        given: TokenAssignment | None,
        hw: tuple[int, int],
    ) -> WindowSimilarity | None:
        if not isinstance(reducer, ConditionalLocalPooling):
            return None
        of_patches = feature if given is None else given.unmerge(feature)  # (B, N, D)
        values = window_similarity(of_patches, hw, reducer.window)
        place = f"Similarity of {FEATURES[reducer.feature]} in {name_layers(self.layers[:1])}"
        return WindowSimilarity(values, reducer.window, float(reducer.threshold), place)


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


def describe(reducer: Reducer) -> str:
    """What a reducer merges by, such as 'windows of 2×2, τ 0.88 (auto)'."""
    words = []
    if isinstance(reducer, ConditionalLocalPooling):
        words.append("windows of {}×{}".format(*reducer.window))
    if isinstance(reducer, ThresholdReducer):
        words.append(f"τ {float(reducer.threshold):.4g}" + (" (auto)" if reducer.auto else ""))
    if isinstance(reducer, ToMe):
        words.append(f"{reducer.num_merged} tokens a layer")
    if reducer.feature != "X":
        words.append(f"{FEATURES[reducer.feature]} compared")
    if reducer.position == "after":
        words.append("after the MLP")
    if reducer.operation == "random":
        words.append("random pick")
    return ", ".join(words)
