"""Superpatch sharing against a loop over superpatches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmtokmerge.merging.superpatch_sharing import count_shared, superpatch_sharing


def by_loop(scores, hw, num_shared=None, threshold=None):
    """Each image's groups: a loop over superpatches, then numbers by first appearance."""
    h, w = hw
    whole = [(scores[y, x].item(), y, x) for y in range(h // 2) for x in range(w // 2)]
    if threshold is None:
        whole.sort(key=lambda cell: -cell[0])
        shared = {(y, x) for _, y, x in whole[:num_shared]}
    else:
        shared = {(y, x) for score, y, x in whole if score > threshold}
    numbers, groups = {}, []
    for y in range(h):
        for x in range(w):
            cell = (y // 2, x // 2)
            key = ("shared", *cell) if cell in shared else ("single", y, x)
            groups.append(numbers.setdefault(key, len(numbers)))
    return groups


def distinct_scores(seed, batch, rows, columns):
    order = torch.Generator().manual_seed(seed)
    flat = torch.stack([torch.randperm(rows * columns, generator=order) for _ in range(batch)])
    return flat.float().view(batch, rows, columns)


@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.data())
def test_by_number_equals_the_loop(seed, batch, h, w, data):
    scores = distinct_scores(seed, batch, -(-h // 2), -(-w // 2))
    num_shared = data.draw(st.integers(0, (h // 2) * (w // 2)))
    assignment = superpatch_sharing(scores, (h, w), num_shared=num_shared)
    assert assignment.num_groups == h * w - 3 * num_shared
    assert not assignment.padded
    for image in range(batch):
        assert assignment.groups[image].tolist() == by_loop(scores[image], (h, w), num_shared)


@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_by_threshold_equals_the_loop_and_pads(seed, batch, h, w):
    scores = distinct_scores(seed, batch, -(-h // 2), -(-w // 2))
    threshold = scores.mean().item()
    assignment = superpatch_sharing(scores, (h, w), threshold=threshold)
    kept = []
    for image in range(batch):
        groups = by_loop(scores[image], (h, w), threshold=threshold)
        assert assignment.groups[image].tolist() == groups
        kept.append(max(groups) + 1)
        sizes = assignment.sizes[image].tolist()
        assert sizes == [groups.count(g) for g in range(assignment.num_groups)]
    assert assignment.num_groups == max(kept)
    assert assignment.padded == (min(kept) < max(kept))


def test_by_hand():
    scores = torch.tensor([[[0.0, 1.0]]])
    assignment = superpatch_sharing(scores, num_shared=1)
    assert assignment.groups.tolist() == [[0, 1, 2, 2, 3, 4, 2, 2]]
    assert assignment.sizes.tolist() == [[1, 1, 4, 1, 1]]


def test_sharing_nothing_and_everything():
    scores = torch.rand(2, 3, 4)
    nothing = superpatch_sharing(scores, num_shared=0)
    assert nothing.groups.tolist() == [list(range(48))] * 2
    assert superpatch_sharing(scores, num_shared=12).num_groups == 48 // 4
    assert superpatch_sharing(scores, threshold=2.0).num_groups == 48


def test_a_border_cell_never_shares_however_high_its_score():
    scores = torch.zeros(1, 2, 2)
    scores[0, 1] = scores[0, :, 1] = 9.0
    assignment = superpatch_sharing(scores, (3, 3), num_shared=1)
    assert assignment.groups.tolist() == [[0, 0, 1, 0, 0, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        (dict(), "num_shared= or threshold="),
        (dict(num_shared=1, threshold=0.5), "num_shared= or threshold="),
        (dict(num_shared=5), "has 4 whole superpatches"),
        (dict(num_shared=-1), "num_shared=-1"),
        (dict(num_shared=1.0), "must be an int"),
        (dict(num_shared=1, hw=(6, 4)), "3x2 superpatches"),
    ],
)
def test_bad_input_is_a_sentence(kwargs, says):
    with pytest.raises((ValueError, TypeError), match=says):
        superpatch_sharing(torch.rand(1, 2, 2), **kwargs)


@pytest.mark.parametrize(
    ("fraction", "hw", "expected"),
    [(0.29, (20, 20), 29),
     (0.3, (12, 60), 54), (25 / 36, (12, 12), 25), (103 / 256, (32, 32), 103), (0.4, (23, 30), 66),
     (0.999, (4, 4), 3), (1.0, (5, 7), 6), (0.0, (8, 8), 0)],
)  # fmt: skip
def test_a_fraction_is_of_the_whole_superpatches(
    fraction: float, hw: tuple[int, int], expected: int
) -> None:
    assert count_shared(fraction, hw) == expected
