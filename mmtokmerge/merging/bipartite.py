"""Bipartite soft matching: sources merge into their most similar destination."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError, InputTypeError
from .assignment import TokenAssignment
from .grid import clip, destinations, pair
from .similarity import most_similar


def bipartite_matching(
    x: Tensor,
    hw: tuple[int, int] | None = None,
    *,
    rate: float | None = None,
    stride: int | tuple[int, int] | None = None,
    threshold: float | Tensor | None = None,
    sizes: Tensor | None = None,
) -> TokenAssignment:
    """Match tokens by ``rate`` on a grid, or by ``threshold`` on a sequence.

    By rate (Segformer++, section III-B and III-C): the top-left token of each full ``stride`` cell
    is a destination, every other token a source; the ``int(N * rate)`` sources most similar to a
    destination merge into it. All images keep the same number of groups, and nothing waits for the
    device.

    By threshold (ALGM, global merging): tokens at positions 1, 3, 5, ... are sources, the others
    destinations; a source merges into its most similar destination if their cosine is strictly
    greater than ``threshold``. Images keep their own numbers of groups, padded to the largest of
    the batch; groups keep the order of their first token.

    Args:
        x: Tokens ``(B, N, C)`` whose cosine decides.
        hw: The grid ``(h, w)`` of the tokens, ``N = h * w``; with ``rate`` only.
        rate: Fraction of tokens removed, ``0 <= rate <= 1 - 1 / (sy * sx)``.
        stride: Destination cells ``(sy, sx)`` in tokens, (2, 2) if None; with ``rate`` only. A
            grid side shorter than the stride takes the side as stride.
        threshold: Cosine above which sources merge.
        sizes: ``(B, N)`` tokens that each row stands for; rows of size 0 take no part, and merging
            needs the same sizes to leave them out. With ``threshold`` only.

    Raises:
        ValueError: If both or none of rate and threshold are given, the grid does not hold N
            tokens, or the stride cannot reach the rate.
    """
    if rate is not None and threshold is not None:
        raise ValueError("bipartite_matching takes rate= or threshold=, not both")
    if x.dim() != 3 or x.shape[1] < 1:
        raise ValueError(f"bipartite_matching takes tokens (B, N, C), got {tuple(x.shape)}")
    with torch.no_grad():
        if threshold is not None:
            if hw is not None or stride is not None:
                raise ValueError("matching by threshold runs along the sequence: no hw, no stride")
            if sizes is not None and sizes.shape != x.shape[:2]:
                raise ValueError(
                    f"sizes must be {tuple(x.shape[:2])}, one for each token, "
                    f"got {tuple(sizes.shape)}"
                )
            return _by_threshold(x, threshold, sizes)
        if rate is None:
            raise ValueError("bipartite_matching needs rate= or threshold=")
        if sizes is not None:
            raise ValueError("matching by rate takes no sizes; they go with threshold")
        if hw is None or hw[0] * hw[1] != x.shape[1]:
            raise ValueError(f"matching by rate needs the grid of {x.shape[1]} tokens, got hw={hw}")
        cell = check_rate(rate, (2, 2) if stride is None else stride)
        return _by_rate(x, (hw[0], hw[1]), rate, cell)


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
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
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
    return min(int(tokens * rate), tokens - (hw[0] // sy) * (hw[1] // sx))


def _by_rate(
    x: Tensor, hw: tuple[int, int], rate: float, stride: tuple[int, int]
) -> TokenAssignment:
    removed = merged_tokens(hw, rate, stride)
    if removed == 0:
        return TokenAssignment.identity(x.shape[1], x.device)
    (h, w), (sy, sx) = hw, clip(stride, hw)
    rows, columns = h // sy, w // sx
    num_targets = rows * columns
    grid = x.reshape(x.shape[0], h, w, x.shape[2])  # (B, h, w, C)
    targets = grid[:, : rows * sy : sy, : columns * sx : sx].flatten(1, 2)  # (B, D, C)
    similarity, best = most_similar(x, targets)  # (B, N)

    own = destinations(hw, (sy, sx), x.device)  # (N,)
    best = torch.where(own < 0, best, own)
    similarity = similarity.masked_fill(own >= 0, torch.inf)
    chosen = similarity.topk(removed + num_targets, dim=1, sorted=False).indices
    joined = torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, chosen, True)
    alone = num_targets - 1 + (~joined).cumsum(1)
    return TokenAssignment.from_groups(torch.where(joined, best, alone), x.shape[1] - removed)


def _by_threshold(x: Tensor, threshold: float | Tensor, sizes: Tensor | None) -> TokenAssignment:
    batch, tokens, _ = x.shape
    position = torch.arange(tokens, device=x.device).expand(batch, -1)  # (B, N)
    present = torch.ones_like(position, dtype=torch.bool) if sizes is None else sizes > 0
    root = position
    if tokens > 1:
        absent = None if sizes is None else ~present[:, ::2]
        similarity, best = most_similar(x[:, 1::2], x[:, ::2], absent)  # (B, N // 2)
        joins = (similarity > threshold) & present[:, 1::2]
        root = position.clone()
        root[:, 1::2] = torch.where(joins, 2 * best, position[:, 1::2])
    first = position.scatter_reduce(1, root, position, "amin").gather(1, root)  # (B, N)
    opens = (first == position) & present
    number = (opens.cumsum(1) - 1).clamp(min=0)
    groups = number.gather(1, first)
    num_groups = max(1, int(opens.sum(1).max()))
    counted = groups.new_zeros(batch, num_groups).scatter_add_(1, groups, present.long())
    return TokenAssignment(groups, counted)
