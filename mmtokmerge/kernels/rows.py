"""Rows taken by index, with gradients that are summed in fp32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """``x (M, C)`` at ``index (N,)``: ``(N, C)``.

    A row that many places take gets the sum of their gradients. Where torch adds them one by one
    to a half-precision sum, as atomic additions on a GPU do and ``x[index]`` does everywhere, a
    thousand ones give 256 in bf16: here they are summed in fp32 on every device.
    """
    if x.dtype in HALVES and torch.is_grad_enabled() and x.requires_grad:
        # torch gives Function.apply no types.
        taken: Tensor = _TakeRows.apply(x, index)  # type: ignore[no-untyped-call]
        return taken
    return x.index_select(0, index)


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        sums = grad.new_zeros(ctx.rows, grad.shape[1], dtype=torch.float32)
        return sums.index_add_(0, index, grad.float()).to(grad.dtype), None
