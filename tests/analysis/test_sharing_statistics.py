"""Superpatches of a single class, counted by loops."""

from __future__ import annotations

import numpy as np
import pytest

from mmtokmerge.analysis.sharing.statistics import centre_crop, count_single, histogram, summarise


def count_by_loops(label: np.ndarray, patch: int, border: str) -> tuple[int, int]:
    single = counted = 0
    rows, columns = (-(-side // patch) // 2 for side in label.shape)
    for y in range(rows):
        for x in range(columns):
            cell = label[2 * patch * y : 2 * patch * (y + 1), 2 * patch * x : 2 * patch * (x + 1)]
            kinds = set(cell.flatten().tolist())
            if border == "ignore" and len(kinds) == 2 and 255 in kinds:
                continue
            counted += 1
            single += len(kinds) == 1
    return single, counted


@pytest.mark.parametrize("shape", [(32, 48), (36, 44), (33, 31), (25, 24)])
@pytest.mark.parametrize("border", ["split", "ignore"])
def test_counts(shape: tuple[int, int], border: str) -> None:
    rng = np.random.default_rng(shape[0])
    for block in (5, 11, 24):
        label = rng.choice([0, 1, 2, 255], (9, 12)).repeat(block, 0).repeat(block, 1)
        label = label[: shape[0], : shape[1]].astype(np.int64)
        assert count_single(label, 4, border) == count_by_loops(label, 4, border)


def test_an_image_of_one_patch_has_no_superpatch() -> None:
    assert count_single(np.zeros((8, 40), dtype=np.int64), 8) == (0, 0)


def test_middle_part() -> None:
    label = np.arange(35).reshape(5, 7)
    assert centre_crop(label, (3, 2)).tolist() == [[9, 10], [16, 17], [23, 24]]
    assert centre_crop(label, (9, 1)).tolist() == [[3], [10], [17], [24], [31]]


def test_summary_and_histogram() -> None:
    percents = [0.0, 25.0, 25.0, 50.0, 100.0]
    found = summarise(percents)
    assert (found["mean"], found["minimum"], found["maximum"]) == (40, 0, 100)
    assert (found["quantile 25 %"], found["quantile 50 %"], found["quantile 75 %"]) == (25, 25, 50)
    assert histogram(percents, 4) == [(0, 25, 1), (25, 50, 2), (50, 75, 1), (75, 100, 1)]
