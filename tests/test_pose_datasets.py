"""Keypoint data sets: what they describe, and one sentence for each thing wrong in their files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pose_helpers import build_mice, correct_mice, needs_mmpose, write_mice

from mmtokmerge.datasets.keypoints.jumper import JUMPER_KEYPOINTS
from mmtokmerge.errors import InputError
from mmtokmerge.pose import import_mmpose
from mmtokmerge.registry import DATASETS

JBD = [
    *("head", "neck", "rsho", "relb", "rwri", "rhan", "lsho", "lelb", "lwri", "lhan"),
    *("rhip", "rkne", "rank", "rhee", "rtoe", "lhip", "lkne", "lank", "lhee", "ltoe"),
]
pytestmark = needs_mmpose


def test_jbd_has_its_keypoints_in_order_with_sides_exchanged_by_a_flip() -> None:
    import_mmpose()
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    assert list(JUMPER_KEYPOINTS) == JBD
    meta = parse_pose_metainfo(DATASETS.get("mmtokmerge.JBDDataset").METAINFO)
    assert [meta["keypoint_id2name"][index] for index in range(20)] == JBD
    swapped = [JBD[index] for index in meta["flip_indices"]]
    assert swapped[:2] == ["head", "neck"]
    assert all(a[1:] == b[1:] and {a[0], b[0]} == {"l", "r"} for a, b in zip(JBD[2:], swapped[2:]))
    assert np.allclose(meta["sigmas"], 0.1) and np.allclose(meta["dataset_keypoint_weights"], 1)
    assert set(meta["lower_body_ids"]) == set(range(10, 20))
    assert set(meta["upper_body_ids"]) == set(range(10))
    linked = {index for link in meta["skeleton_links"] for index in link}
    assert linked == set(range(20))


def test_a_correct_file_is_read(tmp_path: Path) -> None:
    content = correct_mice()
    crowd = dict(content["annotations"][0], id=8, iscrowd=1, bbox=[900, 900, 5, 5])
    content["annotations"].append(crowd)
    write_mice(tmp_path, content)
    mice = build_mice(tmp_path)
    assert len(mice) == 1
    assert mice[0]["keypoints"].shape == (1, 4, 2)
    assert mice[0]["flip_indices"] == [0, 2, 1, 3]


def wrong(**changes: Any) -> dict[str, Any]:
    """A file whose instance has other values."""
    content = correct_mice()
    content["annotations"][0].update(changes)
    return content


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (wrong(image_id=99), "annotation 7 in {path} belongs to image 99, which is not listed"),
        (
            wrong(keypoints=[1, 1, 2] * 17),
            "annotation 7 in {path} has 51 numbers for keypoints, but the data set has 4 keypoints",
        ),
        (
            wrong(bbox=[70, 10, 20, 20]),
            "annotation 7 in {path} has the box [70, 10, 20, 20] (x, y, width, height) outside its "
            "image mouse.png of 64x48 pixels",
        ),
        (wrong(bbox=[5, -30, 20, 20]), "outside its image mouse.png"),
        (wrong(bbox=[float("nan"), 0, 20, 20]), "outside its image mouse.png"),
        (wrong(bbox=[5, 5]), "annotation 7 in {path} has the box [5, 5], but a box is"),
        (wrong(num_keypoints=0), "annotation file {path} has no instance with a box and annotated"),
        (dict(correct_mice(), annotations=[]), "annotation file {path} has no annotations"),
        ({}, "annotation file {path} has no images"),
        ([], "annotation file {path} has no images"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    path = write_mice(tmp_path, content)
    with pytest.raises(InputError, match=re.escape(sentence.format(path=path))):
        build_mice(tmp_path)


def test_a_box_partly_outside_is_clipped(tmp_path: Path) -> None:
    write_mice(tmp_path, wrong(bbox=[-5, 10, 40, 60]))
    assert build_mice(tmp_path)[0]["bbox"].tolist() == [[0, 10, 35, 47]]


def test_a_missing_empty_or_cut_off_annotation_file_is_one_sentence(tmp_path: Path) -> None:
    path = write_mice(tmp_path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(InputError, match=f"annotation file {path} is not JSON, or is cut off"):
        build_mice(tmp_path)
    path.write_text("")
    with pytest.raises(InputError, match=f"annotation file {path} is not JSON"):
        build_mice(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=f"cannot read annotation file {path}: No such file"):
        build_mice(tmp_path)


def test_a_missing_image_is_one_sentence(tmp_path: Path) -> None:
    write_mice(tmp_path)
    (tmp_path / "mouse.png").unlink()
    with pytest.raises(InputError, match=r"image .*mouse.png does not exist, though annotation 7"):
        build_mice(tmp_path)


DETECTION = dict(image_id=3, category_id=1, bbox=[10, 10, 30, 30], score=0.9)


def test_detector_boxes_stand_in_for_true_ones(tmp_path: Path) -> None:
    write_mice(tmp_path)
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps([DETECTION, dict(DETECTION, category_id=2, image_id=5)]))
    mice = build_mice(tmp_path, bbox_file=str(file), test_mode=True)
    assert len(mice) == 1
    assert mice[0]["bbox"].tolist() == [[10, 10, 40, 40]]


def test_detector_boxes_are_clipped_and_empty_ones_left_out(tmp_path: Path) -> None:
    write_mice(tmp_path)
    file = tmp_path / "boxes.json"
    beyond, empty = dict(DETECTION, bbox=[-5, -5, 20, 900]), dict(DETECTION, bbox=[10, 10, 0, 5])
    file.write_text(json.dumps([beyond, empty]))
    mice = build_mice(tmp_path, bbox_file=str(file), test_mode=True)
    assert len(mice) == 1
    height = mice[0]["img_shape"][0]
    assert mice[0]["bbox"].tolist() == [[0, 0, 15, height]]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "detection file {path} is not a list of at least one detection"),
        ([dict(DETECTION, image_id=9)], "detection 0 in {path} belongs to image 9, which"),
        ([DETECTION, dict(DETECTION, bbox=[99, 0, 9, 9])], "detection 1 in {path} has the box"),
        ([dict(image_id=3, category_id=1, score=1)], "detection 0 in {path} has no bbox"),
    ],
)
def test_wrong_detections_are_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    write_mice(tmp_path)
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=re.escape(sentence.format(path=path))):
        build_mice(tmp_path, bbox_file=str(path), test_mode=True)
