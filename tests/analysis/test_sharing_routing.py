"""Which model processes an image."""

from __future__ import annotations

import pytest
import torch

from mmtokmerge.analysis.sharing.routing import count_shareable, route, token_reduction
from mmtokmerge.errors import InputError


@pytest.mark.parametrize(
    ("shareable", "chosen"),
    [(500, 3), (104, 3), (103, 1), (42, 1), (41, 2), (1, 2), (0, 2), (80.5, 1), (103.5, 3)],
)
def test_the_highest_setting_strictly_below(shareable: float, chosen: int) -> None:
    """Settings 103 > 41 > 0 of models 3, 1, 2; model 0 shares so much that none is left."""
    assert route([1000, 41, 0, 103], shareable) == chosen


def test_none_below_and_equals() -> None:
    assert route([60, 20, 40], 20) == 1
    assert route([10, 30, 30], 31) == 1
    for settings in ([], [3, -1]):
        with pytest.raises(InputError, match="settings from 0 up"):
            route(settings, 5)


def test_only_whole_superpatches_above_the_threshold_count() -> None:
    scores = torch.full((2, 3, 2), 0.9)
    scores[0, 0, 0] = 0.5  # not above
    scores[1, :2] = torch.tensor([[0.6, 0.4], [0.2, 0.51]])
    assert count_shareable(scores, (5, 4), 0.5).tolist() == [3, 2]  # the third row is half outside
    assert count_shareable(scores, (6, 4), 0.5).tolist() == [5, 4]
    assert count_shareable(scores, (5, 3), 0.5).tolist() == [1, 1]


def test_reductions_of_the_paper() -> None:
    """Table 1: S = 103 of 1024 patches is 30 %, 256 is 75 %."""
    assert token_reduction(103, (32, 32)) == pytest.approx(30.2, abs=0.05)
    assert token_reduction(256, (32, 32)) == 75
