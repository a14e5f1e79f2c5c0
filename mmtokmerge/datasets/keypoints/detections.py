"""A detector's boxes of people, refused in one sentence where they cannot be used."""

from __future__ import annotations

import math
from typing import Any

from mmtokmerge.datasets.keypoints.fields import check_box, check_id, check_numbers, read_json
from mmtokmerge.errors import InputError


def read_detections(path: str) -> list[Any]:
    """The boxes of a person detector.

    Raises:
        InputError: The file is not a list of detections, is empty, or one of them lacks a field.
    """
    detections = read_json(path, "detection file")
    if not isinstance(detections, list) or not detections:
        raise InputError(f"detection file {path} is not a list of at least one detection")
    for index, detection in enumerate(detections):
        name = f"detection {index} in {path}"
        if not isinstance(detection, dict):
            raise InputError(f"{name} is {detection!r}, but a detection is an object")
        missing = {"image_id", "category_id", "bbox", "score"} - set(detection)
        if missing:
            raise InputError(f"{name} has no {' and no '.join(sorted(missing))}")
        check_numbers([detection["score"]], "score", name)
        if not math.isfinite(detection["score"]):
            raise InputError(
                f"{name} has the score {detection['score']}, which is no finite number"
            )
        for key in ("image_id", "category_id"):
            check_id(detection[key], key, name)
    if not any(detection["category_id"] == 1 for detection in detections):
        raise InputError(
            f"detection file {path} has no box of category_id 1, the people that keypoints are of"
        )
    return detections


def check_detections(detections: list[Any], path: str, content: Any, ann_file: str) -> None:
    """Check a detector's boxes of people against the annotation file's mended ``content``.

    Raises:
        InputError: A detection names an image that ``ann_file`` does not list, or a box outside it.
    """
    by_id = {image["id"]: image for image in content["images"]}
    for index, detection in enumerate(detections):
        name = f"detection {index} in {path}"
        if detection["category_id"] != 1:
            continue
        if detection["image_id"] not in by_id:
            raise InputError(
                f"{name} belongs to image {detection['image_id']}, which {ann_file} does not list"
            )
        check_box(detection["bbox"], by_id[detection["image_id"]], name)
