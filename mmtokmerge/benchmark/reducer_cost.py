"""What the reducers of a plain ViT leave, and how long they take."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmtokmerge.benchmark.candidates import Candidate
from mmtokmerge.benchmark.options import Settings
from mmtokmerge.benchmark.steps import make_step
from mmtokmerge.measure.part_timing import part_shares
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.trace import TOKENS, trace

SHORT = {"ConditionalLocalPooling": "CLAP", "GlobalBipartiteMerging": "GBM"}
SHARE_RUNS = 10
MERGING = "merging"


def merging_share(candidate: Candidate, settings: Settings, images: Tensor) -> float | None:
    """Share of a step that matching and merging take; None where it has no parts to time."""
    if settings.compile or settings.cuda_graph or settings.part == "head":
        return None
    step = make_step(candidate, settings, images)
    runs = min(settings.runs, SHARE_RUNS)
    return part_shares(step, {MERGING: candidate.reducers}, settings.device, runs)[MERGING]


@torch.no_grad()
def tokens_after_reducers(backbone: nn.Module, images: Tensor) -> dict[str, float]:
    """Patches, and the tokens left after sharing and each reducer, of one image; a batch's mean.

    Args:
        backbone: A plain ViT.
        images: ``(B, 3, H, W)``.
    """
    with trace(backbone) as merges:
        backbone(images)
    whole, shared = merges.assignment, merges.sharing
    counts = {"patches": float(whole.num_tokens if whole is not None else 0)}
    if shared is not None:
        counts["CTS"] = _mean_groups(shared)
    for event in merges.events:
        if event.part != TOKENS:
            continue
        reduced = event.assignment if event.module.reduce else event.before
        kind = type(event.module).__name__
        name = f"{SHORT.get(kind, kind)} {event.layer}"
        counts[name] = counts["patches"] if reduced is None else _mean_groups(reduced)
    return counts


def _mean_groups(assignment: TokenAssignment) -> float:
    """Groups of an image that hold a token; the mean of the batch."""
    return float((assignment.sizes > 0).sum()) / len(assignment.sizes)
