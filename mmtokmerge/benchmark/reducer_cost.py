"""What the reducers of a plain ViT leave, and how long they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.benchmark.candidates import Contestant
from mmtokmerge.benchmark.options import Settings
from mmtokmerge.benchmark.steps import make_step
from mmtokmerge.measure.part_timing import part_shares

SHORT = {"ConditionalLocalPooling": "CLAP", "GlobalBipartiteMerging": "GBM"}
SHARE_RUNS = 10
MERGING = "merging"


def merging_share(contestant: Contestant, settings: Settings, images: Tensor) -> float | None:
    """Share of a step that matching and merging take; None where it has no parts to time."""
    if settings.compile or settings.cuda_graph or settings.part == "head":
        return None
    step = make_step(contestant, settings, images)
    runs = min(settings.runs, SHARE_RUNS)
    return part_shares(step, {MERGING: contestant.reducers}, settings.device, runs)[MERGING]


@torch.no_grad()
def tokens_after_reducers(backbone: nn.Module, images: Tensor) -> dict[str, float]:
    """Patches, and the tokens left after sharing and each reducer, of one image; a batch's mean.

    Args:
        backbone: A plain ViT.
        images: ``(B, 3, H, W)``.
    """
    kept: dict[str, float] = {}
    after: dict[str, float] = {}
    hooks = [reducer.register_forward_hook(_observer(after)) for reducer in backbone.reducers]
    try:
        backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    kept["patches"] = float(backbone.last_assignment.num_tokens)
    if backbone.last_sharing is not None:
        kept["CTS"] = float((backbone.last_sharing.sizes > 0).sum()) / len(images)
    return {**kept, **after}


def _observer(kept: dict[str, float]) -> Callable[..., None]:
    calls: list[int] = []

    def observe(reducer: Any, args: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        assignment = output[1]
        layer = sorted(reducer.layers)[len(calls)]
        calls.append(layer)
        kind = type(reducer).__name__
        sizes = args[0].new_ones(1, args[0].shape[1]) if assignment is None else assignment.sizes
        kept[f"{SHORT.get(kind, kind)} {layer}"] = float((sizes > 0).sum()) / len(sizes)

    return observe
