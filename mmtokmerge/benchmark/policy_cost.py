"""What the policy of token sharing costs beside the network that it serves (CTS)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmtokmerge.benchmark.candidates import Candidate
from mmtokmerge.benchmark.options import Settings
from mmtokmerge.benchmark.steps import make_step
from mmtokmerge.measure import memory
from mmtokmerge.measure.flops import counting_flops
from mmtokmerge.measure.part_timing import part_shares

SHARE_RUNS = 10
POLICY = "policy"


@dataclass(frozen=True)
class PolicyCost:
    """The policy's part of a step.

    Args:
        share: The policy's share of the step's time; None where it has no parts to time.
        flops: For one image, 1 MAC = 2 FLOPs.
        memory: MiB of its weights.
    """

    share: float | None
    flops: int
    memory: float


def policy_cost(candidate: Candidate, settings: Settings, images: Tensor) -> PolicyCost | None:
    """Time, count and weigh the policy of a candidate; None for one without, and for a head.

    Args:
        candidate: Whose step is timed.
        settings: How.
        images: ``(B, 3, H, W)``.
    """
    sharing = candidate.sharing
    if sharing is None or settings.part == "head":
        return None
    backbone = candidate.model.backbone
    hw = tuple(-(-side // backbone.patch_size) for side in images.shape[2:])
    with counting_flops(candidate.model) as counter, torch.no_grad():
        sharing(images, hw, backbone.patch_size)
    share = None
    if not (settings.compile or settings.cuda_graph):
        step = make_step(candidate, settings, images)
        runs = min(settings.runs, SHARE_RUNS)
        share = part_shares(step, {POLICY: [sharing.policy]}, settings.device, runs)[POLICY]
    flops = round(counter.get_total_flops() / len(images))
    return PolicyCost(share, flops, memory.held(sharing))
