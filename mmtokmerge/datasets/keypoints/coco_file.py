"""Writing one-person images as a COCO keypoint file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtokmerge.datasets.keypoints.jumper import JUMPER_KEYPOINTS, JUMPER_LINKS

MARGIN = 0.1
"""How far a box reaches beyond its keypoints, as a fraction of their extent's longer side."""


def box_around(points: np.ndarray, size: tuple[int, int], margin: float = MARGIN) -> list[float]:
    """The box (x, y, width, height) around keypoints ``(K, 2)``, clipped to an image.

    Args:
        points: Pixels (x, y).
        size: Width and height of the image.
        margin: See :data:`MARGIN`.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    reach = max(1.0, margin * max(high - low))  # a single keypoint has a box too
    low = (low - reach).clip(0, size)
    high = (high + reach).clip(0, size)
    return [round(float(value), 2) for value in (*low, *(high - low))]


class CocoFile:
    """A COCO keypoint file that grows person by person; keypoints are a jumper's."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self._ids: dict[str, int] = {}

    def add(
        self,
        file_name: str,
        size: tuple[int, int],
        points: np.ndarray,
        visible: Sequence[bool],
        margin: float = MARGIN,
    ) -> None:
        """Add a person.

        Args:
            file_name: The image's path below the images' folder.
            size: The image's width and height.
            points: ``(K, 2)`` pixels (x, y).
            visible: Which of them are annotated, at least one.
            margin: See :data:`MARGIN`.
        """
        if file_name not in self._ids:
            self._ids[file_name] = len(self.images) + 1
            width, height = size
            self.images.append(
                dict(id=self._ids[file_name], file_name=file_name, width=width, height=height)
            )
        shown = np.asarray(visible, dtype=bool)
        box = box_around(points[shown], size, margin)
        triples = np.concatenate([points, np.full((len(points), 1), 2.0)], axis=1).round(2)
        triples[~shown] = 0
        self.annotations.append(
            dict(
                id=len(self.annotations) + 1,
                image_id=self._ids[file_name],
                category_id=1,
                keypoints=triples.ravel().tolist(),
                num_keypoints=int(shown.sum()),
                bbox=box,
                area=round(box[2] * box[3], 2),
                iscrowd=0,
            )
        )

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        number = {name: index + 1 for index, name in enumerate(JUMPER_KEYPOINTS)}
        skeleton = [[number[a], number[b]] for a, b in JUMPER_LINKS]
        names = list(JUMPER_KEYPOINTS)
        person = dict(id=1, name="person", keypoints=names, skeleton=skeleton)
        content = dict(images=self.images, annotations=self.annotations, categories=[person])
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.part")
        scratch.write_text(json.dumps(content) + "\n")
        os.replace(scratch, path)
