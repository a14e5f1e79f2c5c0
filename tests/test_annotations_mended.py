"""Keypoint files: what is certain is mended and said, what is not is refused in one sentence."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mmtokmerge.datasets.keypoints.annotations import mend_annotations
from mmtokmerge.errors import InputError


def content() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "annotations": [
            {
                "id": 7,
                "image_id": 1,
                "category_id": 1,
                "bbox": [10, 10, 20, 10],
                "area": 150.0,
                "iscrowd": 0,
                "num_keypoints": 2,
                "keypoints": [12, 12, 2, 20, 15, 1],
            }
        ],
        "categories": [{"id": 1, "name": "person"}],
    }


def mend(found: dict[str, Any], size: tuple[int, int] = (60, 40)) -> list[str]:
    return mend_annotations(found, "f.json", 2, lambda name, owner: size)


def changed(where: str, key: str, value: Any) -> dict[str, Any]:
    found = content()
    if value is KeyError:
        del found[where][0][key]
    else:
        found[where][0][key] = value
    return found


def test_a_right_file_stays_as_it_is() -> None:
    found = content()
    assert mend(found) == [] and found == content()


@pytest.mark.parametrize(
    ("where", "key", "given", "wanted", "says"),
    [
        ("annotations", "area", KeyError, 200, "areas taken from the box: 1"),
        ("annotations", "area", None, 200, "areas taken from the box"),
        ("annotations", "area", float("nan"), 200, "areas taken from the box"),
        ("annotations", "area", float("inf"), 200, "areas taken from the box"),
        ("annotations", "area", -5, 200, "areas taken from the box"),
        ("annotations", "area", 0, 200, "areas taken from the box"),
        ("annotations", "iscrowd", KeyError, 0, "iscrowd taken as 0"),
        ("annotations", "num_keypoints", None, 2, "num_keypoints counted"),
        ("annotations", "num_keypoints", 5, 2, "num_keypoints counted"),
        ("annotations", "category_id", KeyError, 1, "the only category"),
        ("annotations", "keypoints", [12, 12, 2, 9, 9, -1], [12, 12, 2, 0, 0, 0], "below 0"),
        (
            "annotations",
            "keypoints",
            [12, 12, 2, float("nan"), 9.0, 0],
            [12, 12, 2, 0, 0, 0],
            "unlabelled",
        ),
        ("images", "width", KeyError, 60, "read from their files"),
        ("images", "height", None, 40, "read from their files"),
    ],
)
def test_what_is_certain_is_mended_and_said(
    where: str, key: str, given: Any, wanted: Any, says: str
) -> None:
    found = changed(where, key, given)
    said = mend(found)
    assert found[where][0][key] == wanted
    assert [each for each in said if says in each]


@pytest.mark.parametrize(
    ("where", "key", "value", "says"),
    [
        ("annotations", "keypoints", [12, 12, 2, float("nan"), 9, 2], "finite numbers"),
        ("annotations", "keypoints", [12, 12, 2], "3 numbers for keypoints"),
        ("annotations", "keypoints", [12, 12, 2, "9", 9, 2], "'9' in keypoints"),
        ("annotations", "bbox", [10, 10, None, 5], "None in bbox"),
        ("annotations", "bbox", [100, 10, 5, 5], "outside its image"),
        ("annotations", "bbox", "box", "a box is"),
        ("annotations", "area", "big", "'big' in area"),
        ("annotations", "iscrowd", 2, "iscrowd"),
        ("annotations", "category_id", 9, "category_id 9"),
        ("annotations", "image_id", 4, "not listed"),
        ("annotations", "id", None, "id None"),
        ("annotations", "image_id", [3], "image_id [3]"),
        ("annotations", "category_id", [1], "category_id [1]"),
        ("annotations", "category_id", {}, "category_id {}"),
        ("annotations", "bbox", [10, 10, 20, 10, 1], "a box is"),
        ("annotations", "keypoints", [12, 12, 5, 20, 15, 1], "visibility 5"),
        ("annotations", "keypoints", [12, 12, 0.5, 20, 15, 1], "visibility 0.5"),
        ("annotations", "keypoints", [1e9, 12, 2, 20, 15, 1], "far outside"),
        ("annotations", "keypoints", [12, -50, 2, 20, 15, 1], "far outside"),
        ("images", "width", "60", "width '60'"),
        ("images", "id", "1", "id '1'"),
        ("images", "file_name", None, "file_name None"),
        ("images", "width", 61, "has the size 61x40"),
    ],
)
def test_what_is_not_certain_is_refused(where: str, key: str, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=r"f\.json") as caught:
        mend(changed(where, key, value))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_size_turned_by_exif_is_named() -> None:
    with pytest.raises(InputError, match="turned as its EXIF says"):
        mend(content(), size=(40, 60))


@pytest.mark.parametrize("table", ["images", "annotations", "categories"])
def test_an_id_that_occurs_twice_is_refused(table: str) -> None:
    found = content()
    found[table].append(copy.deepcopy(found[table][0]))
    with pytest.raises(InputError, match="occurs twice"):
        mend(found)


def test_an_instance_without_box_or_keypoints_is_left_out() -> None:
    found = content()
    found["annotations"].append(dict(found["annotations"][0], id=8, bbox=None))
    assert mend(found) == ["instances without box or keypoints left out: 1"]
    assert [each["id"] for each in found["annotations"]] == [7]


@pytest.mark.parametrize("table", ["images", "annotations", "categories"])
def test_what_is_no_list_is_said(table: str) -> None:
    with pytest.raises(InputError, match=r"f\.json"):
        mend({**content(), table: 5})


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("bbox", [0.1, 0.1, 0.5, 0.4], "boxes"),
        ("keypoints", [0.2, 0.3, 2, 0.5, 0.9, 1], "keypoints"),
    ],
)
def test_shares_of_the_image_are_no_pixels(key: str, value: list[float], what: str) -> None:
    with pytest.raises(InputError, match=f"has {what} from 0 to 1"):
        mend(changed("annotations", key, value))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["tail", "nose"], "names 'tail' as keypoint 0, but the data set has 'nose'"),
        (["nose"], "names 1 keypoints, but the data set has 2"),
    ],
)
def test_a_category_with_keypoints_in_another_order(names: list[str], sentence: str) -> None:
    found = changed("categories", "keypoints", names)
    with pytest.raises(InputError, match=sentence):
        mend_annotations(found, "f.json", 2, lambda name, owner: (60, 40), names=["nose", "tail"])
    for fine in (["Nose", "tail"], ["left", "right"]):  # other words of the same number may be
        found = changed("categories", "keypoints", fine)
        mend_annotations(found, "f.json", 2, lambda name, owner: (60, 40), names=["nose", "tail"])
