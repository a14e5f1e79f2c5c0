"""Merging spelled out in plain Python loops: what the fast code has to agree with.

Everything here works on lists and is written from the definitions alone: destinations are the
top-left tokens of full cells, sources the rest, the best ``int(N * rate)`` sources merge. A
partition is a list with one number for each token, groups numbered by their first token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def cosine(a: Row, b: Row) -> float:
    """Cosine of two tokens."""
    dot = sum(p * q for p, q in zip(a, b))
    return dot / (math.sqrt(sum(p * p for p in a)) * math.sqrt(sum(q * q for q in b)))


def canonical(groups: Sequence[int]) -> list[int]:
    """Number groups by their first token, so that two partitions compare as lists."""
    seen: dict[int, int] = {}
    return [seen.setdefault(int(group), len(seen)) for group in groups]


def destination_tokens(
    hw: tuple[int, int], stride: tuple[int, int], centre: bool = False
) -> list[int]:
    """Raster positions of the top-left token of each full cell, or of its middle one."""
    h, w = hw
    sy, sx = min(stride[0], h), min(stride[1], w)
    found = []
    for y in range(0, h, sy):
        for x in range(0, w, sx):
            if y + sy <= h and x + sx <= w:
                found.append((y + sy // 2) * w + x + sx // 2 if centre else y * w + x)
    return found


def cells_touch(a: int, b: int, hw: tuple[int, int], stride: tuple[int, int]) -> bool:
    """Whether the cells of two tokens are one, or share a side or a corner."""
    sy, sx = min(stride[0], hw[0]), min(stride[1], hw[1])
    (ya, xa), (yb, xb) = divmod(a, hw[1]), divmod(b, hw[1])
    return abs(ya // sy - yb // sy) <= 1 and abs(xa // sx - xb // sx) <= 1


def match_by_rate(
    tokens: Sequence[Row],
    hw: tuple[int, int],
    rate: float,
    stride: tuple[int, int],
    centre: bool = False,
    local: bool = False,
) -> list[int]:
    """Partition of one image's grid by bipartite matching with a rate."""
    destinations = destination_tokens(hw, stride, centre)
    offers = []
    for position, token in enumerate(tokens):
        if position in destinations:
            continue
        targets = [t for t in destinations if not local or cells_touch(position, t, hw, stride)]
        scores = [cosine(token, tokens[target]) for target in targets]
        best = max(scores)
        offers.append((best, position, targets[scores.index(best)]))
    offers.sort(reverse=True)
    root = list(range(len(tokens)))
    for _, position, target in offers[: int(len(tokens) * rate)]:
        root[position] = target
    return canonical(root)


def match_by_threshold(
    tokens: Sequence[Row], threshold: float, sizes: Sequence[int] | None = None
) -> list[int | None]:
    """Partition of one sequence by bipartite matching with a threshold; None where absent."""
    present = [sizes is None or sizes[i] > 0 for i in range(len(tokens))]
    root = list(range(len(tokens)))
    for i in range(0, len(tokens), 2):
        candidates = [j for j in range(1, len(tokens), 2) if present[j]]
        if not present[i] or not candidates:
            continue
        scores = [cosine(tokens[i], tokens[j]) for j in candidates]
        if max(scores) > threshold:
            root[i] = candidates[scores.index(max(scores))]
    numbers = iter(canonical([r for r, there in zip(root, present) if there]))
    return [next(numbers) if there else None for there in present]


def pool_cells(hw: tuple[int, int], kernel: tuple[int, int]) -> list[int]:
    """Partition of a grid into cells in raster order, smaller at the right and bottom edge."""
    h, w = hw
    return canonical([(y // kernel[0]) * w + x // kernel[1] for y in range(h) for x in range(w)])


def merge(
    tokens: Sequence[Row], groups: Sequence[int], weights: Sequence[float] | None = None
) -> list[list[float]]:
    """Mean of each group, weighted where ``weights`` are given."""
    merged = []
    for group in range(max(groups) + 1):
        members = [i for i, g in enumerate(groups) if g == group]
        shares = [1.0 if weights is None else weights[i] for i in members]
        total = sum(shares)
        merged.append(
            [
                sum(s * tokens[i][c] for s, i in zip(shares, members)) / total
                for c in range(len(tokens[0]))
            ]
        )
    return merged


def unmerge(rows: Sequence[Row], groups: Sequence[int]) -> list[Row]:
    """The row of each token's group."""
    return [rows[group] for group in groups]
