"""Quality against speed: which points no other beats, and where a speed would be reached."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, TypeVar


class Point(Protocol):
    """A measured setting."""

    @property
    def miou(self) -> float:
        """Mean intersection over union, in percent."""

    @property
    def speed(self) -> float:
        """Throughput relative to the reference."""


P = TypeVar("P", bound=Point)


def pareto_front(points: Sequence[P]) -> list[P]:
    """The points that no other point equals in one of mIoU and speed and beats in the other.

    Returns:
        From the slowest to the fastest; points that are equal in both all stay.
    """
    front = [
        each
        for each in points
        if not any(
            (other.miou >= each.miou and other.speed > each.speed)
            or (other.miou > each.miou and other.speed >= each.speed)
            for other in points
        )
    ]
    return sorted(front, key=lambda each: (each.speed, -each.miou))


def crossing(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """Where a value that was measured at some positions reaches ``target``, linearly between two.

    Args:
        points: Position and value. Of several crossings the one at the largest position counts:
            a threshold as high as possible merges as little as it can.
        target: The value that is wanted.

    Returns:
        The position, None where no neighbouring two enclose the target.
    """
    ordered = sorted(points, reverse=True)
    for (right, above), (left, below) in pairwise(ordered):
        if min(above, below) <= target <= max(above, below):
            if above == below:
                return right
            return right + (left - right) * (target - above) / (below - above)
    return None
