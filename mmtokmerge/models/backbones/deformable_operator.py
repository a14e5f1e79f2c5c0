"""mmcv's compiled operator of deformable attention, on CUDA, where mmcv was built with it."""

from __future__ import annotations

import torch
from torch import Tensor

from mmtokmerge.layers.deformable_attention import Shapes, use_sampler
from mmtokmerge.quiet import quiet_imports


def use_compiled() -> bool:
    """Let deformable attention use it; whether it is there."""
    try:
        with quiet_imports():
            from mmcv.ops import get_compiling_cuda_version
            from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
    except ImportError:
        return False
    if get_compiling_cuda_version() == "not available":  # built for CPUs alone
        return False

    def sampler(value: Tensor, shapes: Shapes, places: Tensor, weights: Tensor) -> Tensor:
        sizes = torch.tensor([list(shape) for shape in shapes], device=value.device)
        areas = sizes.prod(1)
        starts = areas.cumsum(0) - areas
        found: Tensor = MultiScaleDeformableAttnFunction.apply(
            value.float(), sizes, starts, places.float(), weights.float(), len(value)
        )
        return found.to(value.dtype)

    use_sampler(sampler)
    return True
