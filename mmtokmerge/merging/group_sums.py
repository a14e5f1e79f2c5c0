"""Sums over the tokens of each group: additions in memory, or for some runtimes a product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from mmtokmerge.kernels.recording import is_exported

_BY_PRODUCT: ContextVar[bool] = ContextVar("sums by a product", default=False)


@contextmanager
def sums_by_product() -> Iterator[None]:
    """While open, what ``torch.export`` records sums groups by a product with ones.

    A runtime that has no scatter with a reduction, as TensorRT, takes it; it costs N x M x C.
    """
    token = _BY_PRODUCT.set(True)
    try:
        yield
    finally:
        _BY_PRODUCT.reset(token)


def group_sums(x: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """The sum of each group's rows.

    Args:
        x: ``(B, N)`` or ``(B, N, C)``.
        groups: ``(B, N)`` the group of each row.
        num_groups: M.

    Returns:
        ``(B, M)`` or ``(B, M, C)`` in the dtype of ``x``.
    """
    flat = x.dim() == 2
    if is_exported() and _BY_PRODUCT.get():
        numbers = torch.arange(num_groups, device=groups.device)
        ones = groups[:, None, :] == numbers[:, None]  # (B, M, N)
        rows = (x[..., None] if flat else x).float()
        sums = (ones.to(rows.dtype) @ rows).to(x.dtype)
        return sums[..., 0] if flat else sums
    index = groups if flat else groups[..., None].expand(-1, -1, x.shape[2])
    whole = x.new_zeros(x.shape[0], num_groups, *x.shape[2:])
    return whole.scatter_add_(1, index, x)
