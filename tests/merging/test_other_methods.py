"""PiToMe's and ELViT's assignments against plain loops of their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.merging.energy_matching import energy, energy_matching
from mmtokmerge.merging.local_clustering import local_clustering


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b)) / (math.hypot(*a) * math.hypot(*b))


def energy_by_loops(tokens: list[list[float]], margin: float, alpha: float) -> list[float]:
    found = []
    for i, own in enumerate(tokens):
        others = [cosine(own, other) for j, other in enumerate(tokens) if j != i]
        scores = [c if c >= margin else alpha * (math.exp(c - margin) - 1) for c in others]
        found.append(sum(scores) / len(scores))
    return found


def numbered(groups: list[set[int]], tokens: int) -> list[int]:
    """The group of each token, in the order of their first tokens."""
    ordered = sorted(groups, key=min)
    return [next(i for i, group in enumerate(ordered) if t in group) for t in range(tokens)]


@given(
    tokens=st.integers(2, 14),
    part=st.floats(0, 1),
    margin=st.floats(-0.5, 0.9),
    seed=st.integers(0, 2**16),
)
def test_pitome_equals_loops(tokens: int, part: float, margin: float, seed: int) -> None:
    torch.manual_seed(seed)
    count = int(part * (tokens // 2))
    x = torch.randn(2, tokens, 5, dtype=torch.float64)
    found = energy_matching(x, count, margin=margin)
    for row, image in enumerate(x.tolist()):
        scores = energy_by_loops(image, margin, 1.0)
        torch.testing.assert_close(energy(x, margin)[row], torch.tensor(scores).double())
        order = sorted(range(tokens), key=lambda i: -scores[i])[: 2 * count]
        groups = [{t} for t in range(tokens)]
        for source in order[0::2]:
            best = max(order[1::2], key=lambda t: cosine(image[source], image[t]))
            own = next(group for group in groups if best in group)
            groups.remove({source})
            own.add(source)
        expected = numbered(groups, tokens)
        assert found.groups[row % len(found.groups)].tolist() == expected
    assert found.num_groups == tokens - count
    assert (found.sizes > 0).all()


def test_pitome_leaves_isolated_tokens_alone() -> None:
    """A cluster of four alike tokens and two that resemble nothing."""
    x = torch.tensor(
        [[[1.0, 0, 0], [1, 0.01, 0], [0, 0, 1.0], [1, 0, 0.01], [1, 0.01, 0.01], [0, 1, 0]]]
    )
    found = energy_matching(x, 2, margin=0.5)
    assert found.sizes.tolist()[0].count(1) >= 2
    alone = [token for token in (2, 5) if found.sizes[0, found.groups[0, token]] == 1]
    assert alone == [2, 5]


def test_pitome_says_what_cannot_be_reached() -> None:
    with pytest.raises(InputError, match="count=4 cannot be reached: 7 tokens have 3"):
        energy_matching(torch.randn(1, 7, 3), 4)


def cluster_by_loops(
    x: list[list[float]], hw: tuple[int, int], grid: tuple[int, int], steps: int, tau: float
) -> list[int]:
    (h, w), (rows, columns) = hw, grid

    def mean(tokens: list[list[float]]) -> list[float]:
        return [sum(values) / len(tokens) for values in zip(*tokens)]

    centres = []
    for r in range(rows):
        for c in range(columns):
            ys = range(r * h // rows, -(-(r + 1) * h // rows))
            xs = range(c * w // columns, -(-(c + 1) * w // columns))
            centres.append(mean([x[i * w + j] for i in ys for j in xs]))
    around = []
    for i in range(h):
        for j in range(w):
            r, c = i * rows // h, j * columns // w
            around.append(
                [
                    a * columns + b
                    for a in (r - 1, r, r + 1)
                    for b in (c - 1, c, c + 1)
                    if 0 <= a < rows and 0 <= b < columns
                ]
            )

    def belongs() -> list[dict[int, float]]:
        found = []
        for token, near in zip(x, around):
            weight = {k: math.exp(-(math.dist(token, centres[k]) ** 2) / tau) for k in near}
            total = sum(weight.values())
            found.append({k: value / total for k, value in weight.items()})
        return found

    for _ in range(steps):
        weights = belongs()
        for k in range(rows * columns):
            mine = [(w[k], token) for w, token in zip(weights, x) if k in w]
            total = sum(weight for weight, _ in mine)
            centres[k] = [
                sum(weight * token[d] for weight, token in mine) / total for d in range(len(x[0]))
            ]
    own = [max(weights, key=lambda k: weights[k]) for weights in belongs()]
    groups = [{t for t, k in enumerate(own) if k == centre} for centre in set(own)]
    return numbered(groups, len(x))


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize(
    ("hw", "grid"), [((4, 6), (2, 3)), ((5, 7), (2, 2)), ((1, 6), (1, 2)), ((3, 4), (3, 4))]
)
def test_clusters_equal_loops(hw: tuple[int, int], grid: tuple[int, int], steps: int) -> None:
    torch.manual_seed(sum(hw) + steps)
    x = torch.randn(2, hw[0] * hw[1], 3, dtype=torch.float64)
    found = local_clustering(x, hw, clusters=grid, iterations=steps, temperature=2.0)
    for row, image in enumerate(x.tolist()):
        assert found.groups[row].tolist() == cluster_by_loops(image, hw, grid, steps, 2.0)
    counted = torch.zeros_like(found.sizes).scatter_add_(
        1, found.groups, torch.ones_like(found.groups)
    )
    assert torch.equal(found.sizes, counted)


def test_clusters_follow_what_the_tokens_show() -> None:
    """Two halves that the coarse grid cuts in another place."""
    image: Tensor = torch.zeros(6, 8, 2)
    image[:, :5, 0], image[:, 5:, 1] = 9, 9
    found = local_clustering(image.reshape(1, 48, 2), (6, 8), clusters=(1, 2), temperature=1.0)
    expected = torch.tensor([0] * 5 + [1] * 3).repeat(6)
    assert torch.equal(found.groups[0], expected)


def test_more_centres_than_tokens_are_a_sentence() -> None:
    with pytest.raises(InputError, match=r"clusters \(3, 2\) must be at most the grid \(2, 4\)"):
        local_clustering(torch.randn(1, 8, 3), (2, 4), clusters=(3, 2))
