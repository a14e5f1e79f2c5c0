"""Checks of a COCO keypoint annotation file and of a detection file, in one sentence each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import mmengine.fileio as fileio

from mmtokmerge.errors import InputError

Table = list[dict[str, Any]]


def read_json(path: str, what: str) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: It is missing, or is not JSON; ``what`` names its role in the sentence.
    """
    try:
        return json.loads(fileio.get_text(path))
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{what} {path} is not JSON, or is cut off: {error}") from error


def check_annotations(path: str, num_keypoints: int) -> None:
    """Check the instances that carry keypoints; the others are not used for pose.

    Raises:
        InputError: The file is not COCO's, has no images or no annotated keypoints, an annotation
            names an image that it does not list, has another number of keypoints than
            ``num_keypoints``, or a box outside its image.
    """
    content = read_json(path, "annotation file")
    images, annotations = (_table(content, key, path) for key in ("images", "annotations"))
    by_id = {image.get("id"): image for image in images}
    count = 0
    for annotation in filter(_is_used, annotations):
        count += 1
        image = by_id.get(annotation.get("image_id"))
        name = f"annotation {annotation.get('id')} in {path}"
        if image is None:
            raise InputError(
                f"{name} belongs to image {annotation.get('image_id')}, which is not listed there"
            )
        found = len(annotation["keypoints"])
        if found != 3 * num_keypoints:
            raise InputError(
                f"{name} has {found} numbers for keypoints, but the data set has {num_keypoints} "
                f"keypoints of x, y and visibility: {3 * num_keypoints}"
            )
        check_box(annotation["bbox"], image, name)
    if count == 0:
        raise InputError(
            f"annotation file {path} has no instance with a box and annotated keypoints "
            f"({len(images)} images, {len(annotations)} annotations)"
        )


def check_detections(path: str, ann_file: str) -> None:
    """Check the boxes of a person detector.

    Raises:
        InputError: The file is not a list of detections, is empty, or a detection of a person names
            an image that ``ann_file`` does not list, or a box outside it.
    """
    detections = read_json(path, "detection file")
    if not isinstance(detections, list) or not detections:
        raise InputError(f"detection file {path} is not a list of at least one detection")
    content = read_json(ann_file, "annotation file")
    by_id = {image.get("id"): image for image in _table(content, "images", ann_file)}
    for index, detection in enumerate(detections):
        name = f"detection {index} in {path}"
        missing = {"image_id", "category_id", "bbox", "score"} - set(detection)
        if missing:
            raise InputError(f"{name} has no {' and no '.join(sorted(missing))}")
        if detection["category_id"] != 1:
            continue
        if detection["image_id"] not in by_id:
            raise InputError(
                f"{name} belongs to image {detection['image_id']}, which {ann_file} does not list"
            )
        check_box(detection["bbox"], by_id[detection["image_id"]], name)


def check_box(box: Iterable[float], image: Mapping[str, Any], name: str) -> None:
    """Refuse a box (x, y, width, height) without any part inside the image; others are clipped.

    Raises:
        InputError: It is outside, or not four numbers.
    """
    numbers = list(box)
    if len(numbers) < 4:
        raise InputError(f"{name} has the box {numbers}, but a box is x, y, width, height")
    x, y, w, h = numbers[:4]
    width, height = image["width"], image["height"]
    inside = x < width and y < height and x + w >= 0 and y + h >= 0
    if not inside:  # also where a number is not finite
        raise InputError(
            f"{name} has the box {numbers[:4]} (x, y, width, height) outside its image "
            f"{image.get('file_name')} of {width}x{height} pixels"
        )


def _is_used(annotation: Mapping[str, Any]) -> bool:
    """Whether pose learns from an instance: boxed, not a crowd, with annotated keypoints."""
    return (
        "bbox" in annotation
        and bool(annotation.get("keypoints"))
        and not annotation.get("iscrowd", 0)
        and annotation.get("num_keypoints", 1) > 0
    )


def _table(content: Any, key: str, path: str) -> Table:
    table = content.get(key) if isinstance(content, dict) else None
    if not isinstance(table, list) or not table:
        raise InputError(
            f"annotation file {path} has no {key}: COCO's format holds the lists images, "
            "annotations and categories"
        )
    return table
