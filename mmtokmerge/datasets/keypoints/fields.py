"""Fields of keypoint files that annotations and detections have: numbers, ids, boxes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import mmengine.fileio as fileio

from mmtokmerge.checks import is_whole
from mmtokmerge.datasets.drawn import how_to_make
from mmtokmerge.errors import InputError


def read_json(path: str, what: str) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: It is missing, or is not JSON; ``what`` names its role in the sentence.
    """
    try:
        return json.loads(fileio.get_text(path))
    except OSError as error:
        why = f"{error.strerror or error}{how_to_make(path)}"
        raise InputError(f"cannot read {what} {path}: {why}") from error
    except ValueError as error:
        raise InputError(f"{what} {path} is not JSON, or is cut off: {error}") from error


def check_numbers(values: Iterable[Any], key: str, name: str) -> None:
    for value in values:
        if type(value) not in (int, float):
            raise InputError(f"{name} has {value!r} in {key}, where a number belongs")


def check_id(found: Any, key: str, name: str) -> None:
    if found is not None and (not is_whole(found)):
        raise InputError(f"{name} has the {key} {found!r}, but an id is an int")


def check_box(box: Any, image: Mapping[str, Any], name: str) -> None:
    """Refuse a box (x, y, width, height) without any part inside the image; others are clipped.

    Raises:
        InputError: It is outside, or not four numbers.
    """
    if not isinstance(box, list) or len(box) != 4:
        raise InputError(f"{name} has the box {box}, but a box is x, y, width, height")
    numbers = box
    check_numbers(numbers, "bbox", name)
    x, y, w, h = numbers[:4]
    width, height = image["width"], image["height"]
    inside = x < width and y < height and x + w >= 0 and y + h >= 0
    if not (inside and all(map(math.isfinite, numbers[:4]))):
        raise InputError(
            f"{name} has the box {numbers[:4]} (x, y, width, height) outside its image "
            f"{image.get('file_name')} of {width}x{height} pixels"
        )
