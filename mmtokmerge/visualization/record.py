"""Which tokens a model merges, made ready to draw; read off a trace of its forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mmtokmerge.checks import one_of
from mmtokmerge.layers import EfficientAttention
from mmtokmerge.layers.reducers import ConditionalLocalPooling, Reducer
from mmtokmerge.merging import window_similarity
from mmtokmerge.merging.trace import QUERIES, SHARED, TOKENS, MergeEvent, Trace, trace
from mmtokmerge.models import MiTPlusPlus
from mmtokmerge.models.policies import TokenSharing
from mmtokmerge.visualization.describe import (
    FEATURES,
    describe_matcher,
    describe_reducer,
    describe_sharing,
    name_layers,
    name_of,
)
from mmtokmerge.visualization.merged import MergedTokens, WindowSimilarity

BLOCKS = ("first", "last")


@contextmanager
def record_assignments(model: nn.Module, block: str = "first") -> Iterator[list[MergedTokens]]:
    """Record what each stage or reducer of a model merges while the context is open.

    Without this context nothing is computed or kept. Modules that were compiled by
    ``torch.compile`` do not report: run the uncompiled model inside the context.

    Args:
        model: A model that holds a :class:`mmtokmerge.models.MiTPlusPlus` or a plain ViT with
            sharing or reducers, or one itself.
        block: 'first' or 'last', the block of each stage that is recorded; a plain ViT has no
            stages.

    Yields:
        A list that is filled when the context ends: an entry for each merging part of each stage,
        for the sharing and for each reducer after its last layer, in the order of running. Each
        holds all that has merged there. It stays empty where the model merges nothing.

    Raises:
        ValueError: If ``block`` is unknown.
    """
    one_of("block", block, BLOCKS)
    records: list[MergedTokens] = []
    with trace(model) as merges:
        yield records
    stages = {
        id(attention): stage
        for encoder in staged_encoders(model)
        for stage, attention in merging_attentions(encoder, block)
    }
    for event in merges.events:
        record = _record(event, merges, stages)
        if record is not None:
            records.append(record)


def merges(model: nn.Module) -> bool:
    """Whether :func:`record_assignments` finds anything to record in a model."""
    parts = (*reducers_of(model), *sharings_of(model))
    return merges_by_stage(model) or bool(parts)


def merges_by_stage(model: nn.Module) -> bool:
    """Whether a model has stages that merge, so that there is a block of each to choose."""
    return any(any(merging_attentions(encoder)) for encoder in staged_encoders(model))


def staged_encoders(model: nn.Module) -> Iterator[MiTPlusPlus]:
    """All encoders with stages that a model holds."""
    return (module for module in model.modules() if isinstance(module, MiTPlusPlus))


def reducers_of(model: nn.Module) -> Iterator[Reducer]:
    """All reducers that a model holds."""
    return (module for module in model.modules() if isinstance(module, Reducer))


def sharings_of(model: nn.Module) -> Iterator[TokenSharing]:
    """All that lets tokens share in a model."""
    return (module for module in model.modules() if isinstance(module, TokenSharing))


def merging_attentions(
    backbone: MiTPlusPlus, block: str = "first"
) -> Iterator[tuple[int, EfficientAttention]]:
    """Each merging stage, counted from 1, and the attention of its first or last block."""
    for number, stage in enumerate(backbone.stages, 1):
        attention = stage.blocks[0 if block == "first" else -1].attn
        if attention.merging.q is not None or attention.merging.kv is not None:
            yield number, attention


def _record(event: MergeEvent, merges: Trace, stages: dict[int, int]) -> MergedTokens | None:
    """What is drawn of an event; None for what is not."""
    module: Any = event.module
    if event.part == SHARED:
        how = describe_sharing(module)
        return MergedTokens("Shared before layer 1", how, event.assignment, event.grid)
    if event.part == TOKENS:
        layers = sorted(module.layers)
        return _reducer_record(event, merges, layers) if event.layer == layers[-1] else None
    return _stage_record(event, stages[id(module)], merges) if id(module) in stages else None


def _stage_record(event: MergeEvent, stage: int, merges: Trace) -> MergedTokens | None:
    attention: Any = event.module
    matcher = attention.merging.q if event.part == QUERIES else attention.merging.kv
    if matcher is None:
        return None
    covered = (1.0, 1.0)
    if event.part != QUERIES:
        full = next(e.grid for e in merges.events if e.module is attention and e.part == QUERIES)
        covered = tuple(
            min(1.0, reduced * attention.sr_ratio / side) for reduced, side in zip(event.grid, full)
        )
    return MergedTokens(
        f"Stage {stage}: {event.part}",
        describe_matcher(matcher),
        event.assignment,
        event.grid,
        covered,
        stage,
    )


def _reducer_record(event: MergeEvent, merges: Trace, layers: list[int]) -> MergedTokens:
    reducer: Any = event.module
    own = [each for each in merges.events if each.module is reducer]
    first = own[own.index(event) - len(layers) + 1]
    return MergedTokens(
        f"After {name_of(reducer)} in {name_layers(layers)}",
        describe_reducer(reducer),
        event.assignment,
        event.grid,
        removed=reducer.reduce,
        windows=_windows(first, layers),
    )


def _windows(event: MergeEvent, layers: list[int]) -> WindowSimilarity | None:
    reducer = event.module
    if not isinstance(reducer, ConditionalLocalPooling) or event.compared is None:
        return None
    compared = event.compared.detach()
    of_patches = compared if event.before is None else event.before.unmerge(compared)  # (B, N, D)
    values = window_similarity(of_patches, event.grid, reducer.window)
    place = f"Similarity of {FEATURES[reducer.feature]} in {name_layers(layers[:1])}"
    return WindowSimilarity(values, reducer.window, float(reducer.threshold), place)
