"""The Pareto front and the interpolation of a threshold."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtokmerge.analysis.front import crossing, pareto_front


class Point(NamedTuple):
    miou: float
    speed: float


def test_front_by_hand() -> None:
    best, fast, slow, beaten = Point(50, 1.5), Point(40, 2), Point(50, 1), Point(40, 1.2)
    assert pareto_front([beaten, fast, slow, best]) == [best, fast]
    assert pareto_front([best, best]) == [best, best]
    assert pareto_front([]) == []


@given(st.lists(st.builds(Point, st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_every_point_is_on_the_front_or_beaten_by_one_that_is(points: list[Point]) -> None:
    front = pareto_front(points)
    for each in points:
        beats = [p != each and p.miou >= each.miou and p.speed >= each.speed for p in front]
        assert (each in front) != any(beats)
    assert front == sorted(front, key=lambda point: point.speed)
    assert [p.miou for p in front] == sorted((p.miou for p in front), reverse=True)


def test_threshold_between_two_measured_ones() -> None:
    points = [(0.9, 1.2), (0.5, 2.0), (0.8, 1.6), (1.0, 1.0)]
    assert crossing(points, 1.4) == pytest.approx(0.85)
    assert crossing(points, 1.6) == pytest.approx(0.8)
    assert crossing(points, 1.7) == pytest.approx(0.725)
    assert crossing(points, 2.5) is None
    assert crossing(points, 0.9) is None
    assert crossing([(0.9, 1.5)], 1.5) is None


def test_the_highest_threshold_of_several() -> None:
    """Noise makes the speed go up and down: what merges least counts."""
    assert crossing([(1.0, 1.0), (0.9, 1.5), (0.8, 1.3), (0.7, 1.6)], 1.4) == pytest.approx(0.92)
    assert crossing([(0.9, 1.5), (0.8, 1.5)], 1.5) == pytest.approx(0.9)
