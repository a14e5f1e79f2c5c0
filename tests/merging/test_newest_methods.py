"""MPM, and what follows AiluRus, ToMA and CubistMerge, against plain loops of their rules."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmtokmerge.errors import InputError
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.density_peaks import density_peaks
from mmtokmerge.merging.facility_location import facility_location, num_destinations
from mmtokmerge.merging.grid_merging import grid_merging
from mmtokmerge.merging.mutual_pairs import mutual_pairs


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b)) / (math.hypot(*a) * math.hypot(*b))


def numbered(own: list[int]) -> list[int]:
    """Groups by the order of their first tokens, from any label of each token."""
    order = list(dict.fromkeys(own))
    return [order.index(label) for label in own]


def tokens(number: int, seed: int, batch: int = 2, width: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, number, width, generator=generator, dtype=torch.float64)


@given(number=st.integers(1, 15), seed=st.integers(0, 2**16), chunk=st.sampled_from([2, 5, 1024]))
def test_mutual_pairs_equal_loops(number: int, seed: int, chunk: int) -> None:
    from mmtokmerge.merging import mutual_pairs as module

    before, module.ROWS = module.ROWS, chunk
    try:
        found = mutual_pairs(tokens(number, seed))
    finally:
        module.ROWS = before
    for row, image in enumerate(tokens(number, seed).tolist()):
        best = [
            max((j for j in range(number) if j != i), key=lambda j: cosine(image[i], image[j]))
            if number > 1
            else 0
            for i in range(number)
        ]
        own = [min(i, best[i]) if best[best[i]] == i else i for i in range(number)]
        assert found.groups[row].tolist() == numbered(own)
        assert int((found.sizes[row] > 0).sum()) == len(set(own))
        assert int(found.sizes.max()) <= 2


def test_padding_makes_no_pair() -> None:
    x = tokens(6, 3, batch=1)
    present = torch.tensor([[True, True, True, True, False, False]])
    padded = mutual_pairs(torch.cat([x[:, :4], x[:, :2]], dim=1), present)  # copies of the first
    alone = mutual_pairs(x[:, :4])
    assert padded.groups[:, :4].tolist() == alone.groups.tolist()
    assert padded.sizes[0, : alone.num_groups].tolist() == alone.sizes[0].tolist()


def peaks_by_loops(
    image: list[list[float]], hw: tuple[int, int], count: int, reach: int, near: int, alpha: float
) -> list[int]:
    h, w = hw
    offsets = sorted(
        ((dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)),
        key=lambda o: o[0] ** 2 + o[1] ** 2,
    )[1:]

    def window(i: int) -> dict[int, float]:
        found = {}
        for rank, (dy, dx) in enumerate(offsets, 1):
            y, x = i // w + dy, i % w + dx
            if 0 <= y < h and 0 <= x < w:
                apart = math.dist(image[i], image[y * w + x])
                found[y * w + x] = (1 - alpha) * apart + alpha * rank / len(offsets)
        return found

    around = [window(i) for i in range(h * w)]
    density = []
    for each in around:
        nearest = sorted(each.values())[:near]
        density.append(math.exp(-sum(nearest) / max(1, len(nearest))))
    score, apart = [], []
    for i, each in enumerate(around):
        denser = [
            d
            for j, d in each.items()
            if density[j] > density[i] or (density[j] == density[i] and j < i)
        ]
        score.append(density[i] * min(denser) if denser else math.inf)
        apart.append(density[i])
    chosen = sorted(
        range(h * w), key=lambda i: (-score[i], -apart[i] if score[i] == math.inf else 0)
    )
    chosen = chosen[:count]
    own = []
    for i, each in enumerate(around):
        far = {j: (1 - alpha) * math.dist(image[i], image[j]) + alpha for j in sorted(chosen)}
        to = far | {j: d for j, d in each.items() if j in chosen}
        own.append(i if i in chosen else min(to, key=to.__getitem__))
    return numbered(own)


@pytest.mark.parametrize("hw", [(4, 5), (1, 7), (3, 3)])
@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize(("reach", "near", "alpha"), [(1, 1, 0.9), (2, 3, 0.3), (1, 2, 0.0)])
def test_density_peaks_equal_loops(
    hw: tuple[int, int], count: int, reach: int, near: int, alpha: float
) -> None:
    x = tokens(hw[0] * hw[1], seed=count)
    found = density_peaks(x, hw, count, reach=reach, neighbours=near, alpha=alpha)
    for row, image in enumerate(x.tolist()):
        expected = peaks_by_loops(image, hw, count, reach, near, alpha)
        assert found.groups[row].tolist() == expected
    assert found.num_groups == count and bool((found.sizes > 0).all())


def test_density_peaks_find_blobs() -> None:
    """Two flat halves: two representatives, one a half."""
    image = torch.zeros(1, 4, 6, 2)
    image[:, :, :3, 0] = 5.0
    found = density_peaks(image.flatten(1, 2), (4, 6), 2, reach=1, alpha=0.05)
    halves = found.groups[0].view(4, 6)
    assert halves[:, :3].unique().numel() == halves[:, 3:].unique().numel() == 1
    assert halves[0, 0] != halves[0, 5]


@pytest.mark.parametrize("hw", [(4, 4), (5, 7), (2, 3)])
@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_facility_location_equals_loops(hw: tuple[int, int], keep: float) -> None:
    tile, (h, w) = 3, hw
    x = tokens(h * w, seed=h)
    found = facility_location(x, hw, keep, tile=tile)
    total = 0
    for row, image in enumerate(x.tolist()):
        own = list(range(h * w))
        total = 0
        for top, left in itertools.product(range(0, h, tile), range(0, w, tile)):
            places = [
                y * w + c
                for y in range(top, min(top + tile, h))
                for c in range(left, min(left + tile, w))
            ]
            chosen: list[int] = []
            for _ in range(num_destinations(len(places), keep)):
                worth = {
                    j: sum(max(cosine(image[i], image[k]) for k in [*chosen, j]) for i in places)
                    for j in places
                    if j not in chosen
                }
                chosen.append(max(worth, key=worth.__getitem__))
            total += len(chosen)
            for i in places:
                if i not in chosen:
                    own[i] = max(sorted(chosen), key=lambda k: cosine(image[i], image[k]))
        assert found.groups[row].tolist() == numbered(own)
    assert found.num_groups == total


def runs_by_loops(line: list[list[float]], left: int) -> list[int]:
    alike = [cosine(line[i], line[i + 1]) for i in range(len(line) - 1)]
    merged = sorted(range(len(alike)), key=lambda i: -alike[i])[: len(line) - left]
    found = [0]
    for edge in range(len(alike)):
        found.append(found[-1] + (edge not in merged))
    return found


@pytest.mark.parametrize(("hw", "to"), [((4, 5), (2, 3)), ((3, 3), (3, 1)), ((5, 2), (1, 2))])
def test_grid_merging_equals_loops(hw: tuple[int, int], to: tuple[int, int]) -> None:
    x = tokens(hw[0] * hw[1], seed=hw[0])
    found = grid_merging(x, hw, to)
    for row, image in enumerate(x.tolist()):
        lines = [image[y * hw[1] : (y + 1) * hw[1]] for y in range(hw[0])]
        columns = [runs_by_loops(line, to[1]) for line in lines]
        means = []
        for line, column in zip(lines, columns):
            parts = [[t for t, c in zip(line, column) if c == each] for each in range(to[1])]
            means.append([[sum(v) / len(v) for v in zip(*part)] for part in parts])
        rows = [runs_by_loops([line[c] for line in means], to[0]) for c in range(to[1])]
        expected = [
            rows[columns[y][c]][y] * to[1] + columns[y][c]
            for y in range(hw[0])
            for c in range(hw[1])
        ]
        assert found.groups[row].tolist() == expected
    assert found.num_groups == to[0] * to[1] and bool((found.sizes > 0).all())


def test_the_strongest_of_each_channel() -> None:
    groups = torch.tensor([[0, 1, 0, 1]])
    x = torch.tensor([[[1.0, -5.0], [2.0, 0.0], [-3.0, 4.0], [1.0, -1.0]]])
    found = TokenAssignment.from_groups(groups, 2).strongest(x)
    assert found.tolist() == [[[-3.0, -5.0], [2.0, -1.0]]]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: density_peaks(x, (2, 3), 7), "count=7 must be from 1 to 6"),
        (lambda x: facility_location(x, (2, 4), 0.5), r"the grid \(2, 4\) must hold 6 tokens"),
        (lambda x: grid_merging(x, (2, 3), (3, 1)), r"to=\(3, 1\) must be at most the grid"),
    ],
)
def test_what_cannot_be_is_a_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        call(torch.randn(1, 6, 3))


def test_padding_is_in_no_strongest() -> None:
    groups, sizes = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[1, 2, 1, 0]])
    x = torch.tensor([[[1.0], [-2.0], [3.0], [100.0]]])
    assert TokenAssignment.from_groups(groups, 2).strongest(x, sizes).tolist() == [[[-2.0], [3.0]]]
