"""COCO keypoint files mended where that is certain, and refused in one sentence where it is not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mmtokmerge.checks import is_whole
from mmtokmerge.datasets.keypoints.fields import check_box, check_id, check_numbers
from mmtokmerge.errors import InputError

Table = list[dict[str, Any]]


def mend_annotations(
    content: Any,
    path: str,
    num_keypoints: int,
    size_of: Callable[[str, Any], tuple[int, int]],
    *,
    detected: Collection[Any] | None = None,
    names: Sequence[str] = (),
) -> list[str]:
    """Mend in place what is certain in a COCO keypoint file, and refuse what is not.

    Mended are a size that an image lacks (the file's), and of an annotation ``area`` (its box's),
    ``iscrowd`` (0), ``num_keypoints`` (counted), ``category_id`` (where there is one category) and
    keypoints that are not labelled (visibility below 0 becomes 0, their NaN too). An instance
    without box or keypoints is left out.

    Args:
        content: The content of the file.
        path: The file, to be named in the sentence.
        num_keypoints: The number of keypoints of the data set.
        size_of: Width and height, as it is loaded, of the file that an image's ``file_name`` names;
            also gets the id of an annotation that needs it.
        detected: Ids of the images that a detector's boxes are in; there need be no instance then.
        names: The names of the data set's keypoints, in their order.

    Returns:
        What was mended, a phrase for each kind with how often.

    Raises:
        InputError: The file is not COCO's, an id occurs twice, a number is missing or none, an
            image's size is not its file's, an annotation names an image or a category that is not
            listed, has another number of keypoints or a box outside, none is annotated, places are
            shares of the image instead of pixels, or a category names keypoints in another order.
    """
    images = _table(content, "images", path)
    if detected is None:
        annotations = _table(content, "annotations", path)
    else:
        annotations = content.get("annotations") or []
    done: Counter[str] = Counter()
    by_id = _by_id(images, "image", path)
    _by_id(annotations, "annotation", path)
    kinds = _by_id(content.get("categories") or [], "category", path)
    for annotation in annotations:
        check_id(annotation.get("image_id"), "image_id", f"annotation {annotation['id']} in {path}")
    needed = {a.get("image_id"): a["id"] for a in annotations if _has_parts(a)}
    for image in images:
        name = f"image {image['id']} in {path}"
        if not isinstance(image.get("file_name"), str):
            raise InputError(f"{name} has the file_name {image.get('file_name')!r}, not a text")
        if image["id"] in needed or image["id"] in (detected or ()):
            size = size_of(image["file_name"], needed.get(image["id"]))
            _mend_size(image, name, size, done)
    kept = []
    count = 0
    for annotation in annotations:
        if not _has_parts(annotation):
            done["instances without box or keypoints left out"] += 1
            continue
        kept.append(annotation)
        name = f"annotation {annotation['id']} in {path}"
        image = by_id.get(annotation.get("image_id"))
        if image is None:
            raise InputError(
                f"{name} belongs to image {annotation.get('image_id')}, which is not listed there"
            )
        _mend_keypoints(annotation, num_keypoints, name, done)
        _check_places(annotation["keypoints"], image, name)
        _mend_fields(annotation, kinds, name, done)
        if not annotation["iscrowd"] and annotation["num_keypoints"] > 0:
            count += 1
            check_box(annotation["bbox"], image, name)
    if count == 0 and detected is None:
        raise InputError(
            f"annotation file {path} has no instance with a box and annotated keypoints "
            f"({len(images)} images, {len(annotations)} annotations)"
        )
    _check_pixels(kept, path)
    for key in {each["category_id"] for each in kept} & set(kinds):
        _check_order(kinds[key], names, path)
    if "annotations" in content:
        content["annotations"] = kept
    return [f"{what}: {number:,}" for what, number in done.items()]


def _check_pixels(annotations: Sequence[Mapping[str, Any]], path: str) -> None:
    """Refuse boxes or keypoints from 0 to 1: shares of an image, which hold no pixel."""
    boxes = [value for each in annotations for value in each["bbox"]]
    points = [
        value
        for each in annotations
        for index, value in enumerate(each["keypoints"])
        if index % 3 < 2 and each["keypoints"][index - index % 3 + 2] > 0
    ]
    for what, values in (("boxes", boxes), ("keypoints", points)):
        if values and max(values) <= 1 and any(value > 0 for value in values):
            raise InputError(
                f"annotation file {path} has {what} from 0 to 1, shares of the image: COCO's are "
                "in pixels"
            )


def _check_order(kind: Mapping[str, Any], names: Sequence[str], path: str) -> None:
    """Refuse a category whose keypoints are the data set's in another order, or not as many."""
    own = kind.get("keypoints")
    if not isinstance(own, list) or not own or not names:
        return
    where = f"category {kind['id']} of {path} names"
    if len(own) != len(names):
        raise InputError(f"{where} {len(own)} keypoints, but the data set has {len(names)}")
    same = [str(each).lower() for each in own]
    wanted = [each.lower() for each in names]
    if sorted(same) == sorted(wanted) and same != wanted:
        place = next(i for i, (a, b) in enumerate(zip(same, wanted)) if a != b)
        raise InputError(
            f"{where} {own[place]!r} as keypoint {place}, but the data set has {names[place]!r} "
            "there: its order would swap what is learned"
        )


def _by_id(table: Table, what: str, path: str) -> dict[int, dict[str, Any]]:
    if not isinstance(table, list):
        raise InputError(f"{path} has no list of each {what}, but {table!r}")
    found: dict[int, dict[str, Any]] = {}
    for row in table:
        key = row.get("id") if isinstance(row, dict) else None
        if not is_whole(key):
            raise InputError(f"one {what} in {path} has the id {key!r}, but an id is an int")
        if key in found:
            raise InputError(f"{what} id {key} occurs twice in {path}, but ids must be unique")
        found[key] = row
    return found


def _mend_size(image: dict[str, Any], name: str, size: tuple[int, int], done: Counter[str]) -> None:
    noted = (image.get("width"), image.get("height"))
    for word, side in zip(("width", "height"), noted):
        if side is not None and (not is_whole(side)):
            raise InputError(f"{name} has the {word} {side!r}, but it is a whole number of pixels")
    if None in noted:
        image["width"], image["height"] = size
        done["sizes of images read from their files"] += 1
    elif noted != size:
        turned = ", turned as its EXIF says" if noted == size[::-1] else ""
        raise InputError(
            f"{name} has the size {noted[0]}x{noted[1]}, but its file {image['file_name']} is "
            f"{size[0]}x{size[1]} pixels (width x height){turned}"
        )


def _mend_keypoints(
    annotation: dict[str, Any], num_keypoints: int, name: str, done: Counter[str]
) -> None:
    numbers = annotation["keypoints"]
    if not isinstance(numbers, list) or len(numbers) != 3 * num_keypoints:
        found = len(numbers) if isinstance(numbers, list) else repr(numbers)
        raise InputError(
            f"{name} has {found} numbers for keypoints, but the data set has {num_keypoints} "
            f"keypoints of x, y and visibility: {3 * num_keypoints}"
        )
    check_numbers(numbers, "keypoints", name)
    for index in range(0, len(numbers), 3):
        x, y, visible = numbers[index : index + 3]
        if math.isfinite(visible) and visible >= 0 and visible not in (0, 1, 2):
            raise InputError(
                f"{name} has keypoint {index // 3} with visibility {visible}: 0 is not labelled, 1 "
                "hidden, 2 visible"
            )
        if visible < 0:
            done["visibilities below 0 taken as 0, not labelled"] += 1
            numbers[index : index + 3] = 0, 0, 0
        elif visible == 0 and not (math.isfinite(x) and math.isfinite(y)):
            done["unlabelled keypoints that are no numbers set to 0"] += 1
            numbers[index : index + 3] = 0, 0, 0
        elif not all(map(math.isfinite, (x, y, visible))):
            raise InputError(
                f"{name} has keypoint {index // 3} at ({x}, {y}) with visibility {visible}: "
                "a labelled keypoint is finite numbers, one that is not labelled 0, 0, 0"
            )
    visible_ones = sum(v > 0 for v in numbers[2::3])
    given = annotation.get("num_keypoints")
    if given is not None:
        check_numbers([given], "num_keypoints", name)
    if given is None or given > visible_ones:
        done["num_keypoints counted"] += 1
        annotation["num_keypoints"] = visible_ones


def _mend_fields(
    annotation: dict[str, Any], kinds: Mapping[int, Any], name: str, done: Counter[str]
) -> None:
    box = annotation["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        raise InputError(f"{name} has the box {box}, but a box is x, y, width, height")
    check_numbers(box, "bbox", name)
    if annotation.get("area") is not None:
        check_numbers([annotation["area"]], "area", name)
    if not 0 < (annotation.get("area") or 0) < math.inf:
        annotation["area"] = box[2] * box[3]
        done["areas taken from the box"] += 1
    if annotation.get("iscrowd") is None:
        annotation["iscrowd"] = 0
        done["iscrowd taken as 0"] += 1
    if annotation["iscrowd"] not in (0, 1):
        raise InputError(f"{name} has iscrowd {annotation['iscrowd']!r}, allowed are 0 and 1")
    if annotation.get("category_id") is None and len(kinds) == 1:
        annotation["category_id"] = next(iter(kinds))
        done["category_id taken from the only category"] += 1
    kind = annotation.get("category_id")
    check_id(kind, "category_id", name)
    if kind is None or (kinds and kind not in kinds):
        listed = ", ".join(map(str, kinds)) or "none"
        raise InputError(f"{name} has category_id {kind!r}, but the categories there are {listed}")


def _check_places(numbers: list[Any], image: Mapping[str, Any], name: str) -> None:
    """Refuse a labelled keypoint further outside its image than the image is large."""
    width, height = image["width"], image["height"]
    for index in range(0, len(numbers), 3):
        x, y, visible = numbers[index : index + 3]
        if visible > 0 and not (-width <= x <= 2 * width and -height <= y <= 2 * height):
            raise InputError(
                f"{name} has keypoint {index // 3} at ({x}, {y}), far outside its image of "
                f"{width}x{height} pixels (width x height)"
            )


def _has_parts(annotation: Mapping[str, Any]) -> bool:
    """Whether an instance has a box and keypoints, neither missing nor null."""
    return annotation.get("bbox") is not None and bool(annotation.get("keypoints"))


def _table(content: Any, key: str, path: str) -> Table:
    table = content.get(key) if isinstance(content, dict) else None
    if not isinstance(table, list) or not table:
        raise InputError(
            f"annotation file {path} has no {key}: COCO's format holds the lists images, "
            "annotations and categories"
        )
    return table
