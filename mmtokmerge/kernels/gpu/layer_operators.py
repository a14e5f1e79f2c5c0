"""Triton's kernels of layers as operators of torch: a norm, and a depthwise convolution.

They have no gradients: see :func:`mmtokmerge.kernels.gpu.switch.use_layer_kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmtokmerge.kernels.gpu.direct import is_direct
from mmtokmerge.kernels.gpu.flops import FORMULAS, tell_counter


def norm_rows(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Layer norm of the rows of ``x (..., C)``, contiguous, all of one type."""
    run = _norm_rows_now if is_direct(x) else _norm_rows
    y: Tensor = run(x, weight, bias, epsilon)
    return y


def depthwise_rows(
    x: Tensor, weight: Tensor, bias: Tensor | None, hw: tuple[int, int], gelu: bool
) -> Tensor:
    """A 3x3 depthwise convolution, and GELU; see :mod:`mmtokmerge.kernels.gpu.depthwise`."""
    tell_counter()
    run = _depthwise_rows_now if is_direct(x) else _depthwise_rows
    y: Tensor = run(x, weight, bias, hw[0], hw[1], gelu)
    return y


# Triton launches on the current device, so each operator makes the tensors' device the current one.
def _norm_rows_now(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    from mmtokmerge.kernels.gpu.norm import launch

    with torch.cuda.device_of(x):
        return launch(x, weight, bias, epsilon)


_norm_rows = torch.library.custom_op(
    "mmtokmerge::norm_rows",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, float epsilon) -> Tensor",
)(_norm_rows_now)


@_norm_rows.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    return torch.empty_like(x)


def _depthwise_rows_now(
    x: Tensor, weight: Tensor, bias: Tensor | None, h: int, w: int, gelu: bool
) -> Tensor:
    from mmtokmerge.kernels.gpu.depthwise import launch

    with torch.cuda.device_of(x):
        return launch(x, weight, bias, (h, w), gelu)


_depthwise_rows = torch.library.custom_op(
    "mmtokmerge::depthwise_rows",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, SymInt h, SymInt w, bool gelu) -> Tensor",
)(_depthwise_rows_now)


@_depthwise_rows.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, h: int, w: int, gelu: bool) -> Tensor:
    return torch.empty_like(x)


def _nine_taps(x: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * 9 * math.prod(x)


FORMULAS[torch.ops.mmtokmerge.depthwise_rows] = _nine_taps
