"""A segmentor with this project's plain ViT: its weights, its reducers, the tokens it keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmtokmerge.errors import InputError
from mmtokmerge.layers.reducers import ThresholdReducer
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.trace import trace
from mmtokmerge.models.overrides import THRESHOLD, reducers_with

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
    if not reducers_with(backbone, name):
        kinds = ", ".join(type(each).__name__ for each in backbone.reducers) or "none"
        hint = "--num-merged searches ToMe" if name == THRESHOLD else "--taus searches ALGM"
        raise InputError(
            f"No entry of model.backbone.reducers in {config} has {name} (there are: {kinds}); "
            f"{hint}."
        )


def configured_value(backbone: Any, name: str) -> float | None:
    """The 'threshold' or 'num_merged' that all reducers have; None where they differ or lack it."""
    having = reducers_with(backbone, name)
    found = {_value(each, name) for each in having}
    value = found.pop() if len(found) == 1 and len(having) == len(backbone.reducers) else None
    return None if value is None or math.isnan(value) else value


@contextmanager
def count_tokens(backbone: Any) -> Iterator[Mapping[str, int]]:
    """Count the tokens of the one image that is run while it is open.

    Yields:
        A dict that is filled when the context ends: 'patches', and 'after CLAP (1)' and so on for
        each reducer after its last layer.
    """
    counts: dict[str, int] = {}
    with trace(backbone) as merges:
        yield counts
    whole = merges.assignment
    if whole is None:
        return
    counts[PATCHES] = whole.num_tokens
    for reducer in backbone.reducers:
        last = max(reducer.layers)
        own = [e for e in merges.events if e.module is reducer and e.layer == last]
        acted = own[-1] if own and reducer.reduce else None
        if acted is not None:
            left = num_groups(acted.assignment)
        elif own:
            left = whole.num_tokens if own[-1].before is None else num_groups(own[-1].before)
        else:
            left = whole.num_tokens
        counts[f"after {short_name(reducer)} ({last})"] = left


def num_groups(assignment: TokenAssignment) -> int:
    """Groups that hold a token, of one image."""
    return int((assignment.sizes > 0).sum())


def short_name(reducer: Any) -> str:
    """The paper's name of a reducer, or its class's."""
    kind = type(reducer).__name__
    return SHORT.get(kind, kind)


def _value(reducer: Any, name: str) -> float:
    """As it stands, nan for a threshold 'auto' that no checkpoint brought."""
    return float(reducer.tau) if name == THRESHOLD else reducer.num_merged
