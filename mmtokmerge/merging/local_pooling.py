"""Conditional local average pooling (CLAP): similar tokens of a small window stand together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.bipartite import best_of_each, mark
from mmtokmerge.merging.grid import constant_of_grid, pair
from mmtokmerge.merging.trace import note_beyond

EPSILON = 1e-12


def local_pooling(
    x: Tensor,
    hw: tuple[int, int],
    *,
    window: int | tuple[int, int] = 2,
    threshold: float | Tensor | None = None,
    count: int | None = None,
    given: TokenAssignment | None = None,
    share_count: bool = False,
    most: int | None = None,
) -> TokenAssignment:
    """Merge the tokens of each window whose mean cosine is above a threshold (ALGM, section 3.3).

    Windows tile the grid from its top left; tokens outside full windows stay single. The mean is
    over all pairs of different tokens of a window, and must be strictly greater. Images keep their
    own numbers of groups, padded to the largest of the batch, and the device is asked for them
    once. Groups keep the order of their first token.

    Args:
        x: Tokens ``(B, N, C)`` of the grid, or ``(B, M, C)`` where ``given`` grouped it already.
        hw: The grid ``(h, w)``, ``N = h * w``.
        window: Window in tokens, an int for both sides or ``(h, w)``.
        threshold: Cosine above which a window merges.
        count: Instead of a threshold: windows that merge in every image, its most similar ones.
            The number of groups is then known without asking the device.
        given: What stands together already, from N tokens to M groups in the order of their first
            token. A group counts in a window as often as it has tokens there; windows that cut a
            group stay as they are.
        share_count: Every image merges as many windows as the image of the batch that has the
            fewest above the threshold, its most similar ones (ALGM, section 3.3, training).
        most: With a threshold: groups that an image keeps at most. One that would keep more merges
            its next similar windows too. Every image then has ``most`` rows, those that it does
            not need padded, and the device is not asked.

    Returns:
        An assignment of the rows of ``x``.

    Raises:
        TypeError: If the window is neither an int nor a pair of ints.
        ValueError: If the window holds a single token, ``x`` does not fit the grid, not exactly one
            of threshold and count is given, or there are fewer windows than count.
    """
    window = check_window(window)
    if (threshold is None) == (count is None):
        raise ValueError("local_pooling takes one of threshold= and count=")
    if count is not None:
        if given is not None or share_count:
            raise ValueError("given and share_count go with threshold=")
        found = (hw[0] // window[0]) * (hw[1] // window[1])
        if not 0 <= count <= found:
            raise InputError(f"count={count} windows cannot merge: the grid {hw} has {found}")
    if most is not None and (threshold is None or given is not None):
        raise InputError("most= goes with threshold=, where nothing has merged before")
    rows_of_x = hw[0] * hw[1] if given is None else given.num_groups
    if x.dim() != 3 or x.shape[1] != rows_of_x:
        raise ValueError(
            f"local_pooling takes (B, {rows_of_x}, C) on this grid, got {tuple(x.shape)}"
        )
    with torch.no_grad():
        position = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)  # (B, M)
        present = given.sizes > 0 if given is not None and given.padded else None
        if hw[0] < window[0] or hw[1] < window[1]:
            _windows_needed(x.shape[1], most, window, 0)
            return TokenAssignment.from_firsts(position, present)
        tokens = x if given is None else given.unmerge(x)  # (B, N, C)
        similarity = window_similarity(tokens, hw, window).flatten(1)  # (B, W)
        num_groups = None if count is None else x.shape[1] - count * (window[0] * window[1] - 1)
        cell, corner = windows(hw, window, x.device)
        cell, corner = cell.expand(x.shape[0], -1), corner.expand(x.shape[0], -1)
        if given is not None:
            cell, corner, whole = _windows_of_groups(given, cell, corner)
            similarity = similarity.masked_fill(whole < window[0] * window[1], -torch.inf)
        if threshold is None:
            chosen = similarity.topk(count or 0, dim=1, sorted=False).indices
            merges = mark(similarity, chosen)
        else:
            merges = similarity > threshold
        if share_count:
            merges = best_of_each(similarity, merges.sum(1).min())
        if most is not None:
            num_groups = min(most, x.shape[1])
            above = merges
            needed = _windows_needed(x.shape[1], most, window, similarity.shape[1])
            merges = merges | mark(similarity, similarity.topk(needed, sorted=False).indices)
            beyond = merges.sum(1) - above.sum(1)
            note_beyond(beyond * (window[0] * window[1] - 1))
        inside = cell.clamp(min=0)
        joins = merges.gather(1, inside) & (cell >= 0)
        firsts = torch.where(joins, corner.gather(1, inside), position)
        return TokenAssignment.from_firsts(firsts, present, num_groups, padded=most is not None)


def _windows_needed(tokens: int, most: int | None, window: tuple[int, int], found: int) -> int:
    """Windows that must merge so that at most ``most`` of the tokens are left.

    Raises:
        InputError: There are fewer.
    """
    if most is None:
        return 0
    needed = -(-max(0, tokens - most) // (window[0] * window[1] - 1))
    if needed > found:
        least = tokens - found * (window[0] * window[1] - 1)
        raise InputError(
            f"max_tokens={most} cannot be reached: {tokens} tokens have {found} windows of "
            f"{window[0]}x{window[1]}, so at least {least} stay"
        )
    return needed


def window_similarity(x: Tensor, hw: tuple[int, int], window: int | tuple[int, int]) -> Tensor:
    """Mean cosine over the pairs of different tokens of each full window (ALGM, section 3.3).

    With unit tokens u of a window of k, the sum over all ordered pairs is ``|sum u|^2``, so the
    mean over different ones is ``(|sum u|^2 - sum |u|^2) / (k (k - 1))``: no pair is formed.

    Args:
        x: Tokens ``(B, h * w, C)``.
        hw: Their grid.
        window: Window in tokens, an int for both sides or ``(h, w)``.

    Returns:
        ``(B, h // wy, w // wx)``, at most 1, in fp32 at least.
    """
    (h, w), (wy, wx) = hw, check_window(window)
    rows, columns, size = h // wy, w // wx, wy * wx
    precision = torch.promote_types(x.dtype, torch.float32)
    unit = F.normalize(x.to(precision), dim=-1, eps=EPSILON).unflatten(1, (h, w))
    unit = unit[:, : rows * wy, : columns * wx]
    unit = unit.reshape(x.shape[0], rows, wy, columns, wx, x.shape[2])
    total = unit.sum((2, 4)).square().sum(-1)  # (B, rows, columns)
    own = unit.square().sum((2, 4, 5))
    cosines: Tensor = ((total - own) / (size * (size - 1))).clamp(max=1)
    return cosines


def check_window(window: int | tuple[int, int]) -> tuple[int, int]:
    """Read a window of at least two tokens as ``(h, w)``.

    Raises:
        TypeError: If it is neither an int nor a pair of ints.
        ValueError: If a side is below 1 or it holds a single token.
    """
    wy, wx = pair(window, "window")
    if wy * wx == 1:
        raise InputError("window=1 merges nothing: a window holds at least two tokens")
    return wy, wx


@constant_of_grid
def windows(
    hw: tuple[int, int], window: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """``(1, N)`` the number of each token's full window, -1 outside, ``(1, W)`` first tokens."""
    (h, w), (wy, wx) = hw, window
    rows, columns = h // wy, w // wx
    number = torch.arange(rows * columns, device=device).view(rows, columns)
    cell = torch.full((h, w), -1, device=device)
    cell[: rows * wy, : columns * wx] = number.repeat_interleave(wy, 0).repeat_interleave(wx, 1)
    place = torch.arange(h * w, device=device).view(h, w)
    corner = place[: rows * wy : wy, : columns * wx : wx]
    return cell.view(1, -1), corner.reshape(1, -1)


def _windows_of_groups(
    given: TokenAssignment, cell: Tensor, corner: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Windows of the groups that stand together already.

    Args:
        given: The assignment of N tokens to M groups.
        cell: ``(B, N)`` the window of each token, -1 outside.
        corner: ``(B, W)`` the first token of each window.

    Returns:
        ``(B, M)`` the window that holds a group wholly, -1 if none; ``(B, W)`` the group of each
        window's first token; ``(B, W)`` how many tokens of the groups that a window holds wholly.
    """
    batch, num_windows = corner.shape
    groups = given.groups.expand(batch, -1)
    sizes = given.sizes.expand(batch, -1)
    least = torch.full_like(sizes, num_windows).scatter_reduce_(1, groups, cell, "amin")
    most = torch.full_like(sizes, -1).scatter_reduce_(1, groups, cell, "amax")
    held = torch.where(least == most, most, -1)
    whole = torch.zeros_like(corner).scatter_add_(1, held.clamp(min=0), sizes * (held >= 0))
    return held, groups.gather(1, corner), whole
