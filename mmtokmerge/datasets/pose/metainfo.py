"""Short descriptions of keypoints and skeletons, written out as MMPose's metainfo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

RIGHT, LEFT, MIDDLE = (255, 128, 0), (0, 200, 80), (51, 153, 255)


def side_of(name: str, pairs: Sequence[tuple[str, str]]) -> tuple[int, int, int]:
    """The colour of a keypoint: its side of the body, from the pairs (right, left)."""
    if any(name == right for right, _ in pairs):
        return RIGHT
    return LEFT if any(name == left for _, left in pairs) else MIDDLE


def make_metainfo(
    name: str,
    keypoints: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    links: Sequence[tuple[str, str]],
    lower: Sequence[str] = (),
    sigma: float = 0.1,
) -> dict[str, Any]:
    """MMPose's description of a data set's keypoints, every joint with weight 1.

    Args:
        name: The name of the data set.
        keypoints: Names in the order of the annotations.
        pairs: Keypoints that a horizontal flip exchanges, (right, left).
        links: Skeleton: keypoints that a line connects.
        lower: Keypoints of the lower body, for half-body augmentation; the others are upper.
        sigma: The sigma of object keypoint similarity, in units of the square root of the area.
    """
    swaps = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    info = {
        index: dict(
            name=keypoint,
            id=index,
            color=list(side_of(keypoint, pairs)),
            type="lower" if keypoint in lower else "upper",
            swap=swaps.get(keypoint, ""),
        )
        for index, keypoint in enumerate(keypoints)
    }
    skeleton = {
        index: dict(link=link, id=index, color=list(side_of(link[1], pairs)))
        for index, link in enumerate(links)
    }
    return dict(
        dataset_name=name,
        keypoint_info=info,
        skeleton_info=skeleton,
        joint_weights=[1.0] * len(keypoints),
        sigmas=[sigma] * len(keypoints),
    )
