"""MMPose's COCO-style data sets, checked when they are built."""

from __future__ import annotations

import os.path as osp
from typing import Any

import mmengine.fileio as fileio
from mmengine.logging import print_log
from mmpose.datasets.datasets.base import BaseCocoStyleDataset

from mmtokmerge.datasets.keypoints.annotations import check_annotations, check_detections
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
        """List the samples as mmpose does, after checking the files."""
        name = type(self).__name__
        if self.bbox_file:
            check_detections(self.bbox_file, self.ann_file)
        else:
            check_annotations(self.ann_file, self.metainfo["num_keypoints"])
        folder = self.data_prefix["img"]
        if not fileio.isdir(folder):
            raise InputError(f"{name}: data_prefix.img {folder} is not an existing folder")
        samples = super().load_data_list()
        if not samples:
            raise InputError(f"{name}: no instance of {self.bbox_file or self.ann_file} is usable")
        self._check_images(samples, folder)
        return samples

    def _check_images(self, samples: list[dict], folder: str) -> None:
        present = set(fileio.list_dir_or_file(folder, list_dir=False, recursive=True))
        named = {osp.relpath(sample["img_path"], folder): sample for sample in samples}
        missing = sorted(set(named) - present)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(
                f"{type(self).__name__}: image {osp.join(folder, missing[0])}{more} does not "
                f"exist, though annotation {named[missing[0]]['id']} of {self.ann_file} needs it"
            )

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
