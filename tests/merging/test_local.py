"""CLAP against loops over windows and pairs, and by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import brute_force

from mmtokmerge.merging import TokenAssignment, local_pooling, superpatch_sharing, window_similarity


def mean_cosine(tokens: list[list[float]]) -> float:
    pairs = list(itertools.combinations(tokens, 2))
    return sum(brute_force.cosine(a, b) for a, b in pairs) / len(pairs)


def windows_of(hw: tuple[int, int], window: tuple[int, int]) -> list[list[int]]:
    """The tokens of each full window."""
    (h, w), (wy, wx) = hw, window
    return [
        [(top + y) * w + left + x for y in range(wy) for x in range(wx)]
        for top in range(0, h - wy + 1, wy)
        for left in range(0, w - wx + 1, wx)
    ]


def by_loops(
    tokens: list[list[float]], hw: tuple[int, int], window: tuple[int, int], threshold: float
) -> list[int]:
    root = list(range(len(tokens)))
    for members in windows_of(hw, window):
        if mean_cosine([tokens[i] for i in members]) > threshold:
            for i in members:
                root[i] = members[0]
    return brute_force.canonical(root)


GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6))
WINDOWS = st.sampled_from([(2, 2), (2, 1), (1, 2), (2, 4), (3, 3), (4, 4)])


@given(GRIDS, WINDOWS, st.floats(-1, 1), st.integers(1, 3), st.integers(0, 2**16))
def test_equals_loops(hw, window, threshold, batch, seed) -> None:
    torch.manual_seed(seed)
    x = torch.randn(batch, hw[0] * hw[1], 3, dtype=torch.float64)
    value = local_pooling(x, hw, window=window, threshold=threshold)
    expected = [by_loops(rows, hw, window, threshold) for rows in x.tolist()]
    counts = [max(groups) + 1 for groups in expected]
    assert value.groups.tolist() == expected
    assert value.num_groups == max(counts)
    assert value.padded == (min(counts) < max(counts))
    for row, groups in enumerate(expected):
        assert value.sizes[row].tolist() == [groups.count(g) for g in range(max(counts))]


@given(GRIDS, WINDOWS, st.integers(0, 2**16))
def test_similarity_equals_the_mean_over_pairs(hw, window, seed) -> None:
    torch.manual_seed(seed)
    x = torch.randn(2, hw[0] * hw[1], 4, dtype=torch.float64)
    value = window_similarity(x, hw, window)
    for row, tokens in enumerate(x.tolist()):
        expected = [mean_cosine([tokens[i] for i in m]) for m in windows_of(hw, window)]
        assert value[row].flatten().tolist() == pytest.approx(expected, abs=1e-9)


def test_golden_by_hand() -> None:
    """A 2x3 grid: the window of columns 0 and 1 holds four equal tokens, column 2 stands outside.

    Three tokens at 0 and one at 60 degrees have a mean cosine of (3 + 3 / 2) / 6 = 3 / 4.
    """
    same = torch.tensor([[1.0, 0.0]] * 6)[None]
    assert local_pooling(same, (2, 3), threshold=0.99).groups.tolist() == [[0, 0, 1, 0, 0, 2]]
    other = same.clone()
    other[0, 4] = torch.tensor([0.5, 0.75**0.5])
    assert window_similarity(other, (2, 3), 2).item() == pytest.approx(0.75)
    assert local_pooling(other, (2, 3), threshold=0.76).num_groups == 6
    assert local_pooling(other, (2, 3), threshold=0.74).num_groups == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_threshold_of_one_merges_nothing(dtype: torch.dtype) -> None:
    x = torch.randn(1, 1, 64).expand(2, 16, 64).to(dtype)
    assert local_pooling(x, (4, 4), threshold=1.0).num_groups == 16


def test_a_shared_count_takes_each_images_best_windows() -> None:
    """Image 0 has one window above 0.5, image 1 two: of those the better one."""
    unit = torch.eye(4)
    apart, near = unit, torch.stack([unit[0], unit[0], unit[0], unit[0] + unit[1]])
    same = unit[:1].expand(4, -1)

    def image(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        grid = torch.cat([left.view(2, 2, 4), right.view(2, 2, 4)], dim=1)
        return grid.reshape(8, 4)

    x = torch.stack([image(apart, same), image(near, same)])
    own = local_pooling(x, (2, 4), threshold=0.5)
    assert (own.sizes > 0).sum(1).tolist() == [5, 2]
    assert own.padded
    shared = local_pooling(x, (2, 4), threshold=0.5, share_count=True)
    assert shared.groups.tolist() == [[0, 1, 2, 2, 3, 4, 2, 2]] * 2
    assert not shared.padded


@given(GRIDS, WINDOWS, st.floats(-1, 1), st.integers(0, 2**16), st.data())
def test_after_sharing_equals_loops(hw, window, threshold, seed, data) -> None:
    """Windows of a grid whose superpatches already share tokens; those that cut one stay."""
    torch.manual_seed(seed)
    (h, w), batch = hw, 2
    most = (h // 2) * (w // 2)
    scores = torch.rand(batch, -(-h // 2), -(-w // 2))
    first = superpatch_sharing(scores, hw, num_shared=data.draw(st.integers(0, most)))
    x = torch.randn(batch, first.num_groups, 3, dtype=torch.float64)
    second = local_pooling(x, hw, window=window, threshold=threshold, given=first)
    both = first.compose(second)
    for row in range(batch):
        groups = first.groups[row].tolist()
        tokens = [x[row, g].tolist() for g in groups]
        root = [groups.index(g) for g in groups]
        for members in windows_of(hw, window):
            held = [groups[i] for i in members]
            whole = all(held.count(g) == groups.count(g) for g in held)
            if whole and mean_cosine([tokens[i] for i in members]) > threshold:
                for i in members:
                    root[i] = members[0]
        assert both.groups[row].tolist() == brute_force.canonical(root)


def test_after_a_padded_assignment_padding_stays_at_the_end() -> None:
    torch.manual_seed(0)
    scores = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]]])
    first = superpatch_sharing(scores, threshold=0.5)
    assert first.padded
    x = torch.randn(2, first.num_groups, 3)
    second = local_pooling(x, (2, 4), threshold=2.0, given=first)
    both = first.compose(second)
    assert both.sizes.tolist() == first.sizes.tolist()
    assert both.groups.tolist() == first.groups.tolist()
    assert both.padded


def test_images_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 35, 2)
    together = local_pooling(x, (5, 7), threshold=0.3)
    for row in range(5):
        alone = local_pooling(x[row : row + 1], (5, 7), threshold=0.3)
        assert torch.equal(alone.groups[0], together.groups[row])
        assert torch.equal(alone.sizes[0], together.sizes[row, : alone.num_groups])


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        (dict(window=1), "window=1 merges nothing"),
        (dict(window=0), "at least 1"),
        (dict(window="2"), "an int or"),
        (dict(hw=(3, 5)), "15"),
        (dict(given=TokenAssignment.identity(15)), "15"),
    ],
)
def test_bad_input_is_a_sentence(kwargs, says) -> None:
    settings = {"hw": (4, 4), "threshold": 0.5, **kwargs}
    with pytest.raises((ValueError, TypeError), match=says):
        local_pooling(torch.randn(1, 16, 2), **settings)
