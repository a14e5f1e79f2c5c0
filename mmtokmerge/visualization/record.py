"""Which tokens a model merges: read off while it encodes, leaving nothing behind on its modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from mmtokmerge.models import MiTPlusPlus
from mmtokmerge.visualization.merged import MergedTokens
from mmtokmerge.visualization.record_reducers import record_reducers, reducers_of
from mmtokmerge.visualization.record_sharing import record_sharing, sharings_of
from mmtokmerge.visualization.record_stages import BLOCKS, merging_attentions, record_stages


@contextmanager
def record_assignments(model: nn.Module, block: str = "first") -> Iterator[list[MergedTokens]]:
    """Record what each stage or reducer of a model merges while the context is open.

    The modules' own forward pass is not touched, and without this context nothing is computed or
    kept. Modules that were compiled by ``torch.compile`` do not report: run the uncompiled model
    inside the context.

    Args:
        model: A model that holds a :class:`mmtokmerge.models.MiTPlusPlus` or a plain ViT with
            sharing or reducers, or one itself.
        block: 'first' or 'last', the block of each stage that is recorded; a plain ViT has no
            stages.

    Yields:
        A list that grows by one entry for each merging part of each stage, for the sharing and for
        each reducer, in the order of running; it stays empty where the model merges nothing.

    Raises:
        ValueError: If ``block`` is unknown.
    """
    if block not in BLOCKS:
        raise ValueError(f"block={block!r} is unknown, allowed are 'first' and 'last'")
    records: list[MergedTokens] = []
    with ExitStack() as stack:
        for encoder in staged_encoders(model):
            stack.enter_context(record_stages(encoder, block, records))
        stack.enter_context(record_sharing(model, records))
        stack.enter_context(record_reducers(model, records))
        yield records


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
