"""Pairs of tokens by class and window against all pairs written out."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmtokmerge.analysis.similarity.pairs import (
    PairMeans,
    resize_labels,
    token_classes,
    window_of,
)


@given(
    st.integers(1, 7), st.integers(1, 7), st.integers(2, 4), st.integers(1, 3), st.integers(0, 999)
)
def test_equals_all_pairs(h: int, w: int, size: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    means = PairMeans()
    same: list[float] = []
    different: list[float] = []
    for _ in range(2):
        tokens = torch.randn(h * w, 3, generator=generator)
        labels = torch.randint(-1, classes, (h * w,), generator=generator)
        means.add(tokens, labels, window_of((h, w), size))
        for i, j in combinations(range(h * w), 2):
            (y, x), (v, u) = divmod(i, w), divmod(j, w)
            full = y // size < h // size and x // size < w // size
            together = full and (y // size, x // size) == (v // size, u // size)
            if together and labels[i] >= 0 and labels[j] >= 0:
                cosine = torch.cosine_similarity(tokens[i].double(), tokens[j].double(), dim=0)
                (same if labels[i] == labels[j] else different).append(float(cosine))
    for mean, count, expected in (
        (means.intra, means.same_count, same),
        (means.inter, means.different_count, different),
    ):
        assert count == len(expected)
        if expected:
            assert mean == pytest.approx(sum(expected) / len(expected), abs=1e-9)
        else:
            assert math.isnan(mean)


def test_class_of_a_patch_is_that_of_all_its_pixels() -> None:
    """A 5 x 7 image of 2 x 3 patches: mixed, ignored and padded patches have no class."""
    labels = torch.tensor(
        [
            [4, 4, 4, 1, 1, 1, 2],
            [4, 4, 4, 1, 1, 3, 2],
            [0, 0, 0, 255, 255, 255, 2],
            [0, 0, 0, 255, 255, 255, 2],
            [9, 9, 9, 9, 9, 9, 9],
        ]
    )
    found = token_classes(labels, (3, 3), (2, 3)).reshape(3, 3)
    assert found.tolist() == [[4, -1, -1], [0, -1, -1], [-1, -1, -1]]
    assert token_classes(labels[:4, :6], (2, 2), (2, 3)).tolist() == [4, -1, 0, -1]


def test_class_of_most_pixels() -> None:
    """Exactly half is no majority, and a majority of ignored pixels is no class."""
    labels = torch.tensor([[7, 7, 1, 1, 255, 255, 2, 255], [7, 0, 2, 2, 255, 4, 2, 2]])
    assert token_classes(labels, (1, 4), (2, 2), majority=True).tolist() == [7, -1, -1, 2]
    assert token_classes(labels, (1, 4), (2, 2)).tolist() == [-1, -1, -1, -1]


def test_labels_follow_the_resized_image() -> None:
    labels = torch.tensor([[1, 2], [3, 255]])
    assert resize_labels(labels, (4, 2)).tolist() == [[1, 2], [1, 2], [3, 255], [3, 255]]
    assert resize_labels(labels, (2, 2)).tolist() == labels.tolist()
