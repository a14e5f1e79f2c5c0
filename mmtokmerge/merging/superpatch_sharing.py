"""Superpatch sharing: the 2x2 patches that a policy picks share one token (CTS)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmtokmerge.checks import is_whole
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.bipartite import mark


def superpatch_sharing(
    scores: Tensor,
    hw: tuple[int, int] | None = None,
    *,
    num_shared: int | None = None,
    threshold: float | None = None,
) -> TokenAssignment:
    """Let the 2x2 patches of superpatches share a token (CTS, section 3.3).

    By number: the ``num_shared`` highest-scoring superpatches of each image, so that ``N - 3 *
    num_shared`` tokens remain; nothing waits for the device. By threshold: every superpatch whose
    score is strictly greater; images keep their own numbers of groups, padded to the largest of
    the batch. Groups keep the order of their first patch.

    Args:
        scores: ``(B, Hs, Ws)``, the higher the rather a superpatch shares its token.
        hw: Grid ``(h, w)`` of the patches, ``(2 * Hs, 2 * Ws)`` if None. With an odd side the last
            row or column of scores belongs to superpatches that lie half outside the grid: they
            never share.
        num_shared: S, superpatches that share, from 0 to the number of whole superpatches.
        threshold: Score above which a superpatch shares.

    Returns:
        An assignment of the ``h * w`` patches.

    Raises:
        TypeError: If ``num_shared`` is not an int.
        ValueError: If both or none of num_shared and threshold are given, the scores do not fit
            the grid, or there are fewer whole superpatches than ``num_shared``.
    """
    if (num_shared is None) == (threshold is None):
        raise InputError("superpatch_sharing takes either num_shared= or threshold=")
    if scores.dim() != 3:
        raise InputError(f"superpatch_sharing takes scores (B, Hs, Ws), got {tuple(scores.shape)}")
    rows, columns = scores.shape[1:]
    h, w = hw if hw is not None else (2 * rows, 2 * columns)
    if (-(-h // 2), -(-w // 2)) != (rows, columns):
        raise InputError(
            f"a grid of {h}x{w} patches has {-(-h // 2)}x{-(-w // 2)} superpatches, "
            f"got scores for {rows}x{columns}"
        )
    whole = scores[:, : h // 2, : w // 2]
    with torch.no_grad():
        if threshold is not None:
            return _share(whole > threshold, (h, w), None)
        count = check_num_shared(num_shared, (h, w))
        flat = whole.flatten(1)  # (B, S_max)
        picked = flat.topk(count, dim=1, sorted=False).indices
        shared = mark(flat, picked)
        return _share(shared.view_as(whole), (h, w), h * w - 3 * count)


def check_num_shared(num_shared: int | None, hw: tuple[int, int]) -> int:
    """Return ``num_shared`` if a grid of ``hw`` patches holds as many superpatches.

    Raises:
        TypeError: If it is not an int.
        ValueError: If it is negative or above the number of whole superpatches.
    """
    if not is_whole(num_shared):
        raise InputTypeError(f"num_shared must be an int, got {num_shared!r}")
    most = (hw[0] // 2) * (hw[1] // 2)
    if not 0 <= num_shared <= most:
        raise InputError(
            f"num_shared={num_shared} is impossible on a grid of {hw[0]}x{hw[1]} patches, "
            f"which has {most} whole superpatches"
        )
    return num_shared


def count_shared(num_shared: int | float, hw: tuple[int, int]) -> int:
    """S for a grid of ``hw`` patches: an int as it is, a float as a fraction of whole superpatches.

    Raises:
        TypeError: If it is no number.
        ValueError: If an int does not fit the grid, or a fraction is not within 0 to 1.
    """
    if isinstance(num_shared, float):
        if not 0 <= num_shared <= 1:
            raise InputError(f"num_shared={num_shared} as a fraction must be from 0 to 1")
        return fraction_of(num_shared, (hw[0] // 2) * (hw[1] // 2))
    return check_num_shared(num_shared, hw)


def fraction_of(fraction: float, whole: int) -> int:
    """``floor(fraction * whole)``, but 54 of 180 for 0.3, which no binary fraction is exactly."""
    return math.floor(fraction * whole + 1e-6)


def superpatch_rows(sharing: TokenAssignment, hw: tuple[int, int]) -> Tensor:
    """Where each group of :func:`superpatch_sharing` stands among patches and superpatches.

    Args:
        sharing: An assignment of the ``h * w`` patches.
        hw: Their grid.

    Returns:
        ``(B, M)`` int64: for a patch that stands alone its index in the raster, for 2x2 patches
        that share ``h * w`` plus the index of their superpatch among the whole ones; 0 in rows that
        are padding.
    """
    h, w = hw
    place = torch.arange(h * w, device=sharing.groups.device).expand_as(sharing.groups)
    last = h * w - 1  # a scatter's maximum needs no first value that no place has
    firsts = torch.zeros_like(sharing.sizes).scatter_reduce_(
        1, sharing.groups, last - place, "amax"
    )
    firsts = last - firsts  # (B, M), the first patch of each group
    cell = firsts // w // 2 * (w // 2) + firsts % w // 2
    rows = torch.where(sharing.sizes > 1, h * w + cell, firsts)
    return rows.masked_fill(sharing.sizes == 0, 0) if sharing.padded else rows


def _share(shared: Tensor, hw: tuple[int, int], num_groups: int | None) -> TokenAssignment:
    """Groups of the grid ``hw`` from ``shared (B, h // 2, w // 2)``, counted if not told."""
    (h, w), batch = hw, shared.shape[0]
    position = torch.arange(h * w, device=shared.device).view(1, h, w).expand(batch, -1, -1)
    first = position.clone()  # (B, h, w), the first patch of each patch's group
    even = slice(None), slice(h // 2 * 2), slice(w // 2 * 2)
    corner = position[even][:, ::2, ::2]
    spread = corner.repeat_interleave(2, 1).repeat_interleave(2, 2)
    cells = shared.repeat_interleave(2, 1).repeat_interleave(2, 2)
    first[even] = torch.where(cells, spread, position[even])
    return TokenAssignment.from_firsts(first.flatten(1), num_groups=num_groups)
