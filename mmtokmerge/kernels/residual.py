"""A branch added to what it branched from."""

from __future__ import annotations

import torch
from torch import Tensor

from mmtokmerge.kernels.linear import is_recorded


def residual(x: Tensor, branch: Tensor) -> Tensor:
    """``x + branch``; without gradients in the memory of ``branch``, which is then overwritten.

    Large maps are mapped anew by the allocator of a CPU each time, which costs more than the sum.
    A forward hook that keeps the output of a branch must copy it, where there are no gradients.
    """
    if torch.is_grad_enabled() or is_recorded():
        return x + branch
    own = branch.is_contiguous() and branch.dtype == x.dtype  # and no view of fewer numbers
    return branch.add_(x) if own else x + branch
