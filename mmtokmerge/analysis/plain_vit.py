"""A segmentor with this project's plain ViT: its weights, its reducers, the tokens it keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmtokmerge.errors import InputError
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.models.reducers import ThresholdReducer, ToMe

THRESHOLD = "threshold"
NUM_MERGED = "num_merged"
KINDS = {THRESHOLD: ThresholdReducer, NUM_MERGED: ToMe}
PATCHES = "patches"
SHORT = {"ConditionalLocalPooling": "CLAP", "GlobalBipartiteMerging": "GBM"}


def auto_reducers(backbone: Any) -> dict[int, ThresholdReducer]:
    """The reducers with ``threshold='auto'`` by their index."""
    return {
        index: reducer
        for index, reducer in enumerate(backbone.reducers)
        if isinstance(reducer, ThresholdReducer) and reducer.auto
    }


def lacks_threshold(backbone: Any) -> bool:
    """Whether a threshold 'auto' was neither calibrated nor in the checkpoint."""
    return any(bool(each.tau.isnan()) for each in auto_reducers(backbone).values())


def check_searchable(backbone: Any, name: str, config: str) -> None:
    """Raise InputError unless a reducer of the config has 'threshold' or 'num_merged'."""
    if not _having(backbone, name):
        kinds = ", ".join(type(each).__name__ for each in backbone.reducers) or "none"
        hint = "--num-merged searches ToMe" if name == THRESHOLD else "--taus searches ALGM"
        raise InputError(
            f"No entry of model.backbone.reducers in {config} has {name} (there are: {kinds}); "
            f"{hint}."
        )


def configured_value(backbone: Any, name: str) -> float | None:
    """The 'threshold' or 'num_merged' that all reducers have; None where they differ or lack it."""
    having = _having(backbone, name)
    found = {_value(each, name) for each in having}
    value = found.pop() if len(found) == 1 and len(having) == len(backbone.reducers) else None
    return None if value is None or math.isnan(value) else value


@contextmanager
def override_reducers(backbone: Any, name: str, value: float) -> Iterator[None]:
    """Give all reducers that have it the same 'threshold' or 'num_merged' while it is open."""
    having = _having(backbone, name)
    before = [_value(each, name) for each in having]
    try:
        for each in having:
            setattr(each, name, value)
        yield
    finally:
        for each, old in zip(having, before):
            setattr(each, name, old)


@contextmanager
def count_tokens(backbone: Any) -> Iterator[Mapping[str, int]]:
    """Count the tokens of the one image that is run while it is open.

    Yields:
        A dict that is filled when the context ends: 'patches', and 'after CLAP (1)' and so on for
        each reducer after its last layer.
    """
    seen: dict[int, TokenAssignment] = {}
    counts: dict[str, int] = {}

    def observe(observation: Any) -> None:
        counts[PATCHES] = observation.hw[0] * observation.hw[1]
        seen[observation.layer - 1] = observation.before  # with what acted after the MLP
        seen[observation.layer] = observation.after

    with backbone.observing(observe):
        yield counts
    if backbone.last_assignment is not None:
        seen[len(backbone.layers)] = backbone.last_assignment
    for reducer in backbone.reducers:
        last = max(reducer.layers)
        kind = type(reducer).__name__
        counts[f"after {SHORT.get(kind, kind)} ({last})"] = int((seen[last].sizes > 0).sum())


def _having(backbone: Any, name: str) -> list[Any]:
    kind = KINDS[name]
    return [each for each in backbone.reducers if isinstance(each, kind)]


def _value(reducer: Any, name: str) -> float:
    """As it stands, nan for a threshold 'auto' that no checkpoint brought."""
    return float(reducer.tau) if name == THRESHOLD else reducer.num_merged
