"""A branch added to what it branched from."""

from __future__ import annotations

from torch import Tensor


def residual(x: Tensor, branch: Tensor, *, reuse: bool = False) -> Tensor:
    """``x + branch``; with ``reuse`` in the memory of ``branch``, which is then overwritten.

    Large maps are mapped anew by the allocator of a CPU each time, which costs more than the sum.
    :func:`mmtokmerge.kernels.plain.reuses_memory` says whether anybody could miss the branch.
    """
    own = reuse and branch.is_contiguous() and branch.dtype == x.dtype  # no view of fewer numbers
    return branch.add_(x) if own else x + branch
