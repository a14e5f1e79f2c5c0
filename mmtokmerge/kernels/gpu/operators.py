"""Triton's kernels as operators of torch: one node of a graph each, with shapes and gradients.

Importing this takes torch alone; Triton is imported when a kernel first runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.kernels.gpu.direct import is_direct
from mmtokmerge.kernels.gpu.flops import FORMULAS, tell_counter
from mmtokmerge.kernels.gpu.switch import DTYPES

EPSILON = 1e-12


def most_similar_triton(
    x: Tensor, destinations: Tensor, absent: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find each token's most similar destination by cosine (Segformer++, equation 1).

    The counterpart of :func:`mmtokmerge.kernels.similarity.most_similar`, without gradients. Under
    autocast the product is taken in autocast's type. Lengths, sums and scores are fp32, where torch
    rounds unit destinations and scores of fp16 and bf16 tokens, so that near-equal destinations may
    be told apart here that tie there. Of equal scores the first destination wins. A destination
    that holds NaN is never chosen; a token that does has the cosine NaN.

    Args:
        x: Tokens ``(B, N, C)`` in fp32, fp16 or bf16.
        destinations: ``(B, D, C)`` of the same type, D at least 1.
        absent: ``(B, D)`` bool, destinations that are none; their cosine counts as -inf.

    Returns:
        The cosine ``(B, N)``, at most 1, in fp32, and the index ``(B, N)`` of the best destination.

    Raises:
        InputError: If types or shapes do not fit, or the tokens are on a CPU and Triton does not
            interpret.
    """
    _check(x, destinations, absent)
    _check_device(x)
    tell_counter()
    run = _most_similar_now if is_direct(x) else _most_similar
    similarity, index = run(x, destinations, absent, _product_dtype(x))
    return similarity, index


def match_on_grid(
    x: Tensor, hw: tuple[int, int], cell: tuple[int, int], offset: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The same where the destinations are the tokens at ``offset`` in the full cells of a grid.

    Args:
        x: Tokens ``(B, h*w, C)`` in fp32, fp16 or bf16.
        hw: The grid.
        cell: ``(sy, sx)`` in tokens, at most the grid.
        offset: ``(oy, ox)``, inside the cell.

    Returns:
        The cosine ``(B, N)`` in fp32 and the index ``(B, N)``; a destination has infinity and its
        own number.

    Raises:
        InputError: If the type is another one, or the tokens are on a CPU and Triton does not
            interpret.
    """
    if x.dtype not in DTYPES:
        raise InputError(f"the Triton kernels take fp32, fp16 or bf16 tokens, got {x.dtype}.")
    _check_device(x)
    tell_counter()
    run = _match_on_grid_now if is_direct(x) else _match_on_grid
    similarity, index = run(x, [*hw, *cell, *offset], _product_dtype(x))
    return similarity, index


def groups_of_matching(
    similarity: Tensor, best: Tensor, values: Tensor | None, num_targets: int, num_groups: int
) -> tuple[Tensor, Tensor]:
    """Number the groups of a matching by rate; see :mod:`mmtokmerge.kernels.gpu.groups`."""
    run = _groups_of_matching_now if is_direct(similarity) else _groups_of_matching
    groups, sizes = run(similarity, best, values, num_targets, num_groups)
    return groups, sizes


def mean_of_groups(
    x: Tensor, groups: Tensor, sizes: Tensor, weights: Tensor | None, shared: int
) -> Tensor:
    """Average groups, with gradients for ``x``; see :func:`mmtokmerge.kernels.gpu.means`."""
    run = _mean_of_groups_now if is_direct(x) else _mean_of_groups
    means: Tensor = run(x, groups, sizes, weights, shared)
    return means


def spread_onto(y: Tensor, groups: Tensor, onto: Tensor) -> Tensor:
    """``onto (B, N, C)`` plus each token's group's row of ``y (B, M, C)``; no gradients."""
    run = _spread_onto_now if is_direct(y) else _spread_onto
    out: Tensor = run(y, groups, onto)
    return out


def _product_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    autocast = x.dtype == torch.float32 and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else x.dtype


def _check_device(x: Tensor) -> None:
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(f"the Triton kernel takes CUDA tensors, got one on {x.device}.")


def _check(x: Tensor, destinations: Tensor, absent: Tensor | None) -> None:
    if x.dtype not in DTYPES or destinations.dtype != x.dtype:
        raise InputError(
            "the Triton kernel compares tokens of one type, fp32, fp16 or bf16, "
            f"got {x.dtype} and {destinations.dtype}."
        )
    batch, _, channels = x.shape
    targets = destinations.shape[1]
    if destinations.shape != (batch, targets, channels) or targets < 1:
        raise InputError(
            f"destinations must be ({batch}, D, {channels}) with D at least 1 for tokens "
            f"{tuple(x.shape)}, got {tuple(destinations.shape)}."
        )
    if absent is not None and (absent.dtype != torch.bool or absent.shape != (batch, targets)):
        raise InputError(
            f"absent must be ({batch}, {targets}) bool, one for each destination, "
            f"got {tuple(absent.shape)} {absent.dtype}."
        )


# Triton launches on the current device, so each operator makes the tensors' device the current one.
def _most_similar_now(
    x: Tensor, targets: Tensor, absent: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    from mmtokmerge.kernels.gpu.best import launch

    with torch.cuda.device_of(x):
        return launch(x, targets, absent, dtype, EPSILON)


_most_similar = torch.library.custom_op(
    "mmtokmerge::most_similar",
    mutates_args=(),
    schema="(Tensor x, Tensor targets, Tensor? absent, ScalarType dtype) -> (Tensor, Tensor)",
)(_most_similar_now)


@_most_similar.register_fake
def _(
    x: Tensor, targets: Tensor, absent: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return _found(x)


def _match_on_grid_now(x: Tensor, grid: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from mmtokmerge.kernels.gpu.best import Grid, launch

    h, w, sy, sx, oy, ox = grid
    with torch.cuda.device_of(x):
        return launch(x, Grid((h, w), (sy, sx), (oy, ox)), None, dtype, EPSILON)


_match_on_grid = torch.library.custom_op(
    "mmtokmerge::match_on_grid",
    mutates_args=(),
    schema="(Tensor x, SymInt[] grid, ScalarType dtype) -> (Tensor, Tensor)",
)(_match_on_grid_now)


@_match_on_grid.register_fake
def _(x: Tensor, grid: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return _found(x)


def _comparisons(x: Sequence[int], targets: Sequence[int], *_: Any, **__: Any) -> int:
    """FLOPs of the products, as the counter counts torch's."""
    return 2 * math.prod(x) * targets[1]


def _comparisons_on_grid(x: Sequence[int], grid: Sequence[int], *_: Any, **__: Any) -> int:
    h, w, sy, sx, *_rest = grid
    return 2 * math.prod(x) * (h // sy) * (w // sx)


FORMULAS[torch.ops.mmtokmerge.most_similar] = _comparisons
FORMULAS[torch.ops.mmtokmerge.match_on_grid] = _comparisons_on_grid


def _found(x: Tensor) -> tuple[Tensor, Tensor]:
    size = x.shape[:2]
    return x.new_empty(size, dtype=torch.float32), x.new_empty(size, dtype=torch.int64)


def _groups_of_matching_now(
    similarity: Tensor, best: Tensor, values: Tensor | None, targets: int, groups: int
) -> tuple[Tensor, Tensor]:
    from mmtokmerge.kernels.gpu.groups import launch

    with torch.cuda.device_of(similarity):
        return launch(similarity, best, values, targets, groups)


_groups_of_matching = torch.library.custom_op(
    "mmtokmerge::groups_of_matching",
    mutates_args=(),
    schema=(
        "(Tensor similarity, Tensor best, Tensor? values, SymInt targets, SymInt groups) "
        "-> (Tensor, Tensor)"
    ),
)(_groups_of_matching_now)


@_groups_of_matching.register_fake
def _(
    similarity: Tensor, best: Tensor, values: Tensor | None, targets: int, groups: int
) -> tuple[Tensor, Tensor]:
    return best.new_empty(best.shape), best.new_empty(best.shape[0], groups)


def _mean_of_groups_now(
    x: Tensor, groups: Tensor, sizes: Tensor, weights: Tensor | None, shared: int
) -> Tensor:
    from mmtokmerge.kernels.gpu.means import launch_means

    with torch.cuda.device_of(x):
        return launch_means(x, groups, sizes, weights, shared)


_mean_of_groups = torch.library.custom_op(
    "mmtokmerge::mean_of_groups",
    mutates_args=(),
    schema="(Tensor x, Tensor groups, Tensor sizes, Tensor? weights, SymInt shared) -> Tensor",
)(_mean_of_groups_now)


@_mean_of_groups.register_fake
def _(x: Tensor, groups: Tensor, sizes: Tensor, weights: Tensor | None, shared: int) -> Tensor:
    return x.new_empty(x.shape[0], sizes.shape[1], x.shape[2])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, groups, sizes, weights, _ = inputs
    ctx.save_for_backward(groups, sizes, weights)


def _mean_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """A token's share of its group's gradient, its weight over the group's size."""
    groups, sizes, weights = ctx.saved_tensors
    batch, num_groups, channels = grad.shape
    counts = sizes.masked_fill(sizes == 0, 1).to(torch.float32)
    shares = grad.float() / counts[..., None]
    offsets = torch.arange(batch, device=grad.device) * num_groups
    rows = (groups + offsets[:, None]).reshape(-1)
    taken = shares.reshape(-1, channels).index_select(0, rows)
    taken = taken.view(batch, groups.shape[1], channels)
    if weights is not None:
        taken = taken * weights[..., None]
    return taken.to(grad.dtype), None, None, None, None


_mean_of_groups.register_autograd(_mean_gradient, setup_context=_keep)


def _spread_onto_now(y: Tensor, groups: Tensor, onto: Tensor) -> Tensor:
    from mmtokmerge.kernels.gpu.means import launch_spread

    with torch.cuda.device_of(y):
        return launch_spread(y, groups, onto)


_spread_onto = torch.library.custom_op(
    "mmtokmerge::spread_onto",
    mutates_args=(),
    schema="(Tensor y, Tensor groups, Tensor onto) -> Tensor",
)(_spread_onto_now)


@_spread_onto.register_fake
def _(y: Tensor, groups: Tensor, onto: Tensor) -> Tensor:
    return torch.empty_like(onto, memory_format=torch.contiguous_format)
