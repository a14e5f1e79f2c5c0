"""MMPose's COCO-style data sets, checked when they are built."""

from __future__ import annotations

import logging
import os.path as osp
from functools import partial
from typing import Any

import mmengine.fileio as fileio
from mmengine.logging import print_log
from mmpose.datasets.datasets.base import BaseCocoStyleDataset

from mmtokmerge.datasets.drawn import how_to_make
from mmtokmerge.datasets.keypoints.annotations import mend_annotations
from mmtokmerge.datasets.keypoints.detections import check_detections, read_detections
from mmtokmerge.datasets.keypoints.fields import read_json
from mmtokmerge.datasets.keypoints.mended_copy import write_copy
from mmtokmerge.datasets.transforms.files import image_size
from mmtokmerge.errors import InputError


class CheckedKeypoints(BaseCocoStyleDataset):
    """A mixin for mmpose data sets: one sentence on what is wrong with the files.

    Stands before the data set class in the bases; arguments are that class's. Instances that
    mmpose leaves out (crowds, without keypoints, with an empty box) are counted in the log. Boxes
    are clipped to their image.

    Raises:
        InputError: When the data set is built: a file is missing, damaged or empty; an annotation
            lacks its image, has another number of keypoints than the data set, or a box outside.
    """

    def load_data_list(self) -> list[dict]:
        """List the samples as mmpose does, after checking the files and mending what is certain."""
        name = type(self).__name__
        source = self.ann_file
        content = read_json(source, "annotation file")
        folder = self.data_prefix["img"]
        if not fileio.isdir(folder):
            raise InputError(
                f"{name}: data_prefix.img {folder} is not an existing folder{how_to_make(folder)}"
            )
        boxes = read_detections(self.bbox_file) if self.bbox_file else None
        mended = mend_annotations(
            content,
            source,
            self.metainfo["num_keypoints"],
            partial(self._size_of, folder),
            names=[name for _, name in sorted(self.metainfo["keypoint_id2name"].items())],
            detected=boxes and {box["image_id"] for box in boxes if box["category_id"] == 1},
        )
        if boxes is not None:
            check_detections(boxes, self.bbox_file, content, source)
        if mended:  # mmpose's metric reads the file too: both read the mended copy
            print_log(
                f"{name}: {source} is used with these mended: {'; '.join(mended)}.",
                logger="current",
                level=logging.WARNING,
            )
            self.ann_file = write_copy(content)
        if content.get("categories") is None:  # pycocotools reads it
            content["categories"] = []
            self.ann_file = write_copy(content)
        samples = super().load_data_list()
        if not samples:
            raise InputError(f"{name}: no instance of {self.bbox_file or source} is usable")
        return samples

    def _size_of(self, folder: str, file_name: str, annotation: int | None) -> tuple[int, int]:
        """Width and height of an image as it is loaded: turned as its EXIF says."""
        path = osp.join(folder, file_name)
        if not fileio.exists(path):
            who = "" if annotation is None else f"annotation {annotation} of "
            raise InputError(
                f"{type(self).__name__}: image {path} does not exist, though {who}{self.ann_file} "
                "needs it"
            )
        return image_size(path)

    def _load_detection_results(self) -> list[dict]:
        """Detections as samples, their boxes clipped to the image; empty ones are left out."""
        samples = super()._load_detection_results()
        kept = []
        for sample in samples:
            height, width = sample["img_shape"]
            box = sample["bbox"]  # (1, 4) as x1, y1, x2, y2
            box[:, 0::2] = box[:, 0::2].clip(0, width)
            box[:, 1::2] = box[:, 1::2].clip(0, height)
            if (box[:, 2:] > box[:, :2]).all():
                kept.append(sample)
        if len(kept) < len(samples):
            print_log(
                f"{type(self).__name__}: {len(kept):,} of {len(samples):,} boxes of "
                f"{self.bbox_file} are used; the others are empty within their image.",
                logger="current",
            )
        return kept

    def _get_topdown_data_infos(self, instance_list: list[dict[str, Any]]) -> list[dict[str, Any]]:
        used = super()._get_topdown_data_infos(instance_list)
        if len(used) < len(instance_list):
            print_log(
                f"{type(self).__name__}: {len(used):,} of {len(instance_list):,} instances of "
                f"{self.ann_file} are used; the others are crowds, have no annotated keypoints or "
                "an empty box.",
                logger="current",
            )
        return used
