"""Bipartite soft matching: sources merge into their most similar destination."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmtokmerge.checks import is_number, one_of
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.kernels.gpu.operators import groups_of_matching, match_on_grid
from mmtokmerge.kernels.gpu.switch import MOST_AT_ONCE, pays, use_kernels
from mmtokmerge.kernels.similarity import most_similar
from mmtokmerge.merging.assignment import TokenAssignment
from mmtokmerge.merging.grid import clip, destinations, pair, share_of
from mmtokmerge.merging.neighbourhood import most_similar_around
from mmtokmerge.merging.trace import note_beyond

DESTINATIONS = ("corner", "centre")
MATCHES = ("global", "local")
ONE_PROGRAM = 2**16
"""Tokens up to which a GPU numbers an image's groups by one program, which walks over them."""


def bipartite_matching(
    x: Tensor,
    hw: tuple[int, int] | None = None,
    *,
    rate: float | None = None,
    stride: int | tuple[int, int] | None = None,
    destination: str = "corner",
    match: str = "global",
    threshold: float | Tensor | None = None,
    count: int | None = None,
    sizes: Tensor | None = None,
    share_count: bool = False,
    most: int | None = None,
) -> TokenAssignment:
    """Match tokens by ``rate`` on a grid, or by ``threshold`` or ``count`` on a sequence.

    By rate (Segformer++, section III-B and III-C): the top-left token of each full ``stride`` cell
    is a destination, every other token a source; the ``int(N * rate)`` sources most similar to a
    destination merge into it. All images keep the same number of groups, and nothing waits for the
    device.

    By threshold (ALGM, section 3.3, global merging): tokens 1, 3, 5, ..., counted from 1, are
    sources, the others destinations; a source merges into its most similar destination if their
    cosine is strictly greater than ``threshold``. Images keep their own numbers of groups, padded
    to the largest of the batch, and the device is asked for them once.

    By count (ToMe): the same, but the ``count`` most similar sources of each image merge.

    Along a sequence, groups keep the order of their first token.

    Args:
        x: Tokens ``(B, N, C)`` whose cosine decides.
        hw: The grid ``(h, w)`` of the tokens, ``N = h * w``; with ``rate`` only.
        rate: Fraction of tokens removed, ``0 <= rate <= 1 - 1 / (sy * sx)``.
        stride: Destination cells ``(sy, sx)`` in tokens, (2, 2) if None; with ``rate`` only. A
            grid side shorter than the stride takes the side as stride.
        destination: 'corner', the top-left token of a cell ``(sy, sx)`` as in the paper, or
            'centre', its token ``(sy // 2, sx // 2)``; with ``rate`` only.
        match: 'global' compares a source with every destination, as in the paper, 'local' with
            those of its own and the eight neighbouring cells, which costs O(N); with ``rate`` only.
        threshold: Cosine above which sources merge.
        count: Sources that merge, at most ``ceil(N / 2)`` and none if N is 1.
        sizes: ``(B, N)`` tokens that each row stands for; rows of size 0 take no part, and merging
            needs the same sizes to leave them out. With ``threshold`` only.
        share_count: With ``threshold``: every image merges as many sources as the image of the
            batch that has the fewest above the threshold, its most similar ones (ALGM, section
            3.3, training).
        most: With ``threshold``: groups that an image keeps at most, half of the tokens or more.
            One that would keep more merges its next similar sources too. Every image then has
            ``most`` rows, those that it does not need padded, and the device is not asked.

    Raises:
        ValueError: If not exactly one of rate, threshold and count is given, the grid does not hold
            N tokens, or the rate or count cannot be reached.
    """
    if sum(given is not None for given in (rate, threshold, count)) != 1:
        raise ValueError("bipartite_matching takes one of rate=, threshold= and count=")
    if rate is None and (hw is not None or stride is not None):
        raise ValueError("matching along the sequence takes no hw and no stride")
    if rate is None and (destination, match) != (DESTINATIONS[0], MATCHES[0]):
        raise ValueError("destination and match go with rate=")
    if threshold is None and (sizes is not None or share_count or most is not None):
        raise ValueError("sizes, share_count and most go with threshold=")
    if threshold is not None:
        return match_by_threshold(x, threshold, sizes=sizes, share_count=share_count, most=most)
    if count is not None:
        return match_by_count(x, count)
    assert rate is not None  # one of the three is given, as counted above
    cells = (2, 2) if stride is None else stride
    return match_by_rate(x, hw, rate=rate, stride=cells, destination=destination, match=match)


@torch.no_grad()
def match_by_rate(
    x: Tensor,
    hw: tuple[int, int] | None,
    *,
    rate: float,
    stride: int | tuple[int, int] = (2, 2),
    destination: str = "corner",
    match: str = "global",
) -> TokenAssignment:
    """Match tokens of a grid by rate; see :func:`bipartite_matching`."""
    _check_tokens(x)
    one_of("destination", destination, DESTINATIONS)
    one_of("match", match, MATCHES)
    if hw is None or hw[0] * hw[1] != x.shape[1]:
        raise ValueError(f"matching by rate needs the grid of {x.shape[1]} tokens, got hw={hw}")
    cell = check_rate(rate, stride)
    return _by_rate(x, (hw[0], hw[1]), rate, cell, destination, match)


@torch.no_grad()
def match_by_threshold(
    x: Tensor,
    threshold: float | Tensor,
    *,
    sizes: Tensor | None = None,
    share_count: bool = False,
    most: int | None = None,
) -> TokenAssignment:
    """Match tokens of a sequence by a threshold; see :func:`bipartite_matching`."""
    _check_tokens(x)
    if sizes is not None and sizes.shape != x.shape[:2]:
        raise ValueError(
            f"sizes must be {tuple(x.shape[:2])}, one for each token, got {tuple(sizes.shape)}"
        )
    return _along_sequence(x, sizes, _above(threshold, share_count), None, most)


@torch.no_grad()
def match_by_count(x: Tensor, count: int) -> TokenAssignment:
    """Match so many tokens of a sequence; see :func:`bipartite_matching`."""
    _check_tokens(x)
    sources = (x.shape[1] + 1) // 2 if x.shape[1] > 1 else 0
    if not 0 <= count <= sources:
        raise InputError(f"count={count} sources cannot merge: {x.shape[1]} tokens have {sources}")
    if count == 0:
        return TokenAssignment.identity(x.shape[1], x.device)
    return _along_sequence(x, None, _most(count), count)


def _check_tokens(x: Tensor) -> None:
    if x.dim() != 3 or x.shape[1] < 1:
        raise ValueError(f"bipartite_matching takes tokens (B, N, C), got {tuple(x.shape)}")


def check_rate(
    rate: float,
    stride: int | tuple[int, int],
    name: str = "rate",
    stride_name: str = "stride",
) -> tuple[int, int]:
    """Return the stride as ``(sy, sx)`` if its cells can reach the rate.

    Raises:
        TypeError: If the rate is not a number or the stride is not an int or a pair.
        ValueError: If the rate is outside 0 to 1 - 1 / (sy * sx).
    """
    sy, sx = pair(stride, stride_name)
    if not is_number(rate):
        raise InputTypeError(f"{name} must be a number, got {rate!r}")
    reach = 1 - 1 / (sy * sx)
    if not 0 <= rate <= reach:
        raise InputError(
            f"{name}={rate} cannot be reached: one token of each {sy}x{sx} cell stays, "
            f"so {stride_name} ({sy}, {sx}) allows 0 <= {name} <= {reach:.4g}"
        )
    return sy, sx


def merged_tokens(hw: tuple[int, int], rate: float, stride: tuple[int, int]) -> int:
    """Tokens of a grid that matching by ``rate`` removes: int(N * rate), at most the sources."""
    sy, sx = clip(stride, hw)
    tokens = hw[0] * hw[1]
    wanted: Any = share_of(tokens, rate)
    if not isinstance(wanted, int) and (sy, sx) == stride:
        merged: int = wanted  # check_rate has seen that whole cells have as many sources
        return merged
    sources = tokens - (hw[0] // sy) * (hw[1] // sx)
    least: int = wanted if wanted < sources else sources
    return least


def _by_rate(
    x: Tensor,
    hw: tuple[int, int],
    rate: float,
    stride: tuple[int, int],
    destination: str,
    match: str,
) -> TokenAssignment:
    removed = merged_tokens(hw, rate, stride)
    if removed == 0:
        return TokenAssignment.identity(x.shape[1], x.device)
    cell = clip(stride, hw)
    offset = (cell[0] // 2, cell[1] // 2) if destination == "centre" else (0, 0)
    num_targets = (hw[0] // cell[0]) * (hw[1] // cell[1])
    num_groups = x.shape[1] - removed
    similarity, best = _on_grid(x, hw, cell, offset, match, num_targets)
    if x.shape[1] <= ONE_PROGRAM and use_kernels(similarity):
        values = None
        if x.shape[1] > MOST_AT_ONCE:
            values = similarity.topk(removed + num_targets, dim=1, sorted=False).values
        groups, sizes = groups_of_matching(similarity, best, values, num_targets, num_groups)
        return TokenAssignment(groups, sizes, shared=num_targets)
    top = similarity.topk(removed + num_targets, dim=1, sorted=False)
    joined = mark(similarity, top.indices)
    alone = num_targets - 1 + (~joined).cumsum(1)
    groups = torch.where(joined, best, alone)
    return TokenAssignment.from_groups(groups, num_groups, shared=num_targets)


def _on_grid(
    x: Tensor,
    hw: tuple[int, int],
    cell: tuple[int, int],
    offset: tuple[int, int],
    match: str,
    num_targets: int,
) -> tuple[Tensor, Tensor]:
    """Cosine ``(B, N)`` and number ``(B, N)`` of each token's destination.

    A destination has infinity and its own number, so that it joins itself before all others join.
    """
    batch, tokens, channels = x.shape
    if match == "global" and use_kernels(x) and pays(batch * tokens, num_targets, channels):
        return match_on_grid(x, hw, cell, offset)
    places, own, sources = destinations(hw, cell, offset, x.device)  # (D,), (N,), (N,)
    targets = x.index_select(1, places)  # (B, D, C)
    if match == "local":
        similarity, best = most_similar_around(x, targets, hw, cell)
    else:
        similarity, best = most_similar(x, targets)
    return similarity.where(sources, torch.inf), best.where(sources, own)


def _along_sequence(
    x: Tensor,
    sizes: Tensor | None,
    joins: Callable[[Tensor], Tensor],
    removed: int | None,
    most: int | None = None,
) -> TokenAssignment:
    """Merge those of tokens 1, 3, 5, ... (counted from 1) that ``joins`` picks.

    ``joins`` maps the cosine ``(B, A)`` of each source, -inf for absent ones, to a bool. With
    ``most`` the next similar ones join too until no more groups are left.
    """
    batch, tokens, _ = x.shape
    position = torch.arange(tokens, device=x.device).expand(batch, -1)  # (B, N)
    present = None if sizes is None else sizes > 0
    if most is not None and most < max(1, tokens // 2):
        raise InputError(
            f"max_tokens={most} cannot be reached: every other one of {tokens} tokens may merge, "
            f"so at least {max(1, tokens // 2)} stay"
        )
    if tokens == 1:
        return TokenAssignment.from_firsts(position, present)
    absent = None if present is None else ~present[:, 1::2]
    with torch.autocast(x.device.type, enabled=False):  # a threshold is told to three digits
        similarity, best = most_similar(x[:, ::2], x[:, 1::2], absent)  # (B, A)
    if present is not None:
        similarity = similarity.masked_fill(~present[:, ::2], -torch.inf)
    chosen = joins(similarity)
    num_groups = None if removed is None else tokens - removed
    if most is not None:
        num_groups = min(most, tokens)
        chosen = _at_most(most, tokens, chosen, similarity, present)
    root = position.clone()
    root[:, ::2] = torch.where(chosen, 2 * best + 1, position[:, ::2])
    firsts = position.scatter_reduce(1, root, position, "amin").gather(1, root)
    return TokenAssignment.from_firsts(firsts, present, num_groups, padded=most is not None)


def _at_most(
    most: int, tokens: int, chosen: Tensor, similarity: Tensor, present: Tensor | None
) -> Tensor:
    """The sources ``(B, A)`` that merge so that at most ``most`` of an image's tokens are left."""
    best = similarity.topk(max(0, tokens - most), dim=1).indices  # the most similar first
    needed = torch.ones_like(best, dtype=torch.bool)
    if present is not None:  # an image with fewer tokens needs fewer merges
        rank = torch.arange(best.shape[1], device=best.device)
        needed = rank < (present.sum(1) - most)[:, None]
    every = chosen | torch.zeros_like(chosen).scatter(1, best, needed)
    note_beyond(every.sum(1) - chosen.sum(1))
    return every


def _above(threshold: float | Tensor, share_count: bool) -> Callable[[Tensor], Tensor]:
    """Sources above the threshold; with ``share_count`` as many of each image, its best ones."""

    def joins(similarity: Tensor) -> Tensor:
        above = similarity > threshold
        return best_of_each(similarity, above.sum(1).min()) if share_count else above

    return joins


def mark(scores: Tensor, chosen: Tensor) -> Tensor:
    """``(B, N)`` bool, True at the places ``chosen (B, k)`` of the rows of ``scores (B, N)``."""
    marks = torch.zeros_like(scores, dtype=torch.bool)
    return marks.scatter_(1, chosen, torch.ones_like(chosen, dtype=torch.bool))


def best_of_each(similarity: Tensor, count: Tensor) -> Tensor:
    """``(B, A)`` bool: the ``count`` greatest of each row; the device is not asked."""
    order = similarity.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return rank < count


def _most(count: int) -> Callable[[Tensor], Tensor]:
    def joins(similarity: Tensor) -> Tensor:
        chosen = similarity.topk(count, dim=1, sorted=False).indices
        return mark(similarity, chosen)

    return joins
