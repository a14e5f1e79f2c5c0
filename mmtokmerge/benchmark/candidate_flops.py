"""FLOPs of a forward pass, matching included, 1 MAC = 2 FLOPs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmtokmerge.benchmark.candidates import Candidate, EncoderSpec
from mmtokmerge.benchmark.options import Shape
from mmtokmerge.benchmark.steps import head_of, part_and_inputs
from mmtokmerge.measure.flops import counting_flops
from mmtokmerge.merging.segformer.cost import StageCost, encoder_cost, total_macs

FORMULA = "formula"
COUNTED = "counted"
ON_IMAGES = "counted on images"


def stage_costs(spec: EncoderSpec, shape: Shape) -> list[StageCost]:
    """Cost of each stage of an encoder for one image."""
    return encoder_cost(
        spec.arch,
        spec.merging,
        shape,
        in_channels=spec.in_channels,
        downsample=spec.downsample,
    )


def forward_flops(candidate: Candidate, part: str, shape: Shape) -> tuple[int | None, str]:
    """FLOPs of one image, and how they were found.

    MiT++ goes by the closed formula, all else is counted by torch's ``FlopCounterMode`` on the meta
    device, which computes nothing.

    Returns:
        The FLOPs, None where an operation of the model has no meta version, and 'formula',
        'counted', 'formula + counted' or the reason why there are none.
    """
    model, spec = candidate.model, candidate.encoder
    try:
        if spec is None or candidate.is_baseline:
            return _counted(candidate, part, shape), COUNTED
        encoder = 2 * total_macs(stage_costs(spec, shape))
        if part == "encoder":
            return encoder, FORMULA
        rest, _ = _count(_Rest(model), _features(model, spec, shape))
    except NotImplementedError as error:
        return None, str(error).splitlines()[0]
    return (rest, COUNTED) if part == "head" else (encoder + rest, f"{FORMULA} + {COUNTED}")


def image_flops(candidate: Candidate, part: str, images: Tensor) -> tuple[int, str]:
    """FLOPs of one image, counted on images ``(B, 3, H, W)``, for what merges by their content.

    Returns:
        The mean of the batch and how it was found.
    """
    call, inputs = part_and_inputs(candidate.model, part, images)
    with counting_flops(candidate.model) as counter, torch.no_grad():
        call(inputs)
    return round(counter.get_total_flops() / len(images)), ON_IMAGES


class _Rest(nn.Module):
    """What comes after the encoder."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.neck = model.neck if getattr(model, "with_neck", False) else nn.Identity()
        self.head = head_of(model)

    def forward(self, features: Any) -> Any:
        return self.head(self.neck(features))


def _features(model: nn.Module, spec: EncoderSpec, shape: Shape) -> list[torch.Tensor]:
    grids = spec.arch.grids(*(-(-side // spec.downsample) for side in shape))
    return [
        torch.empty(1, spec.arch.channels[index], *grids[index], device="meta")
        for index in model.backbone.out_indices
    ]


def _counted(candidate: Candidate, part: str, shape: Shape) -> int:
    model = candidate.model
    images = torch.empty(1, candidate.in_channels, *shape, device="meta")
    encoder, features = _count(model.backbone, images)
    if part == "encoder":
        return encoder
    rest, _ = _count(_Rest(model), features)
    return rest if part == "head" else encoder + rest


def _count(module: nn.Module, inputs: Any) -> tuple[int, Any]:
    """FLOPs and output; with gradients, as nn.MultiheadAttention's fast path is not counted."""
    module = copy.deepcopy(module).to(device="meta", dtype=torch.float32)
    module.eval()  # of mmseg's VisionTransformer it returns nothing
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        output = module(inputs)
    return int(counter.get_total_flops()), output
