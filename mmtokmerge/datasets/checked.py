"""MMSegmentation's datasets, checked when they are built: every image has its label."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from typing import Any

import mmengine.fileio as fileio
import numpy as np
from mmseg.datasets import ADE20KDataset as MMSegADE20K
from mmseg.datasets import BaseSegDataset
from mmseg.datasets import CityscapesDataset as MMSegCityscapes

from mmtokmerge.datasets.drawn import how_to_make
from mmtokmerge.datasets.transforms.files import read_image
from mmtokmerge.datasets.transforms.load_annotations import IGNORE
from mmtokmerge.errors import InputError
from mmtokmerge.registry import DATASETS

MOST_MASKS = 500
"""How many labels are read, at most, to see whether those of two classes are black and white."""


class CheckedFiles(BaseSegDataset):
    """A mixin for mmseg datasets: one listing per folder, then one sentence on what is missing.

    Stands before the dataset class in the bases. Also puts ``num_classes``, the number of ids that
    the label files use, into each sample for :class:`LoadSegAnnotations`, and reads images by
    :class:`LoadImage` where the pipeline names mmcv's ``LoadImageFromFile``.

    Raises:
        InputError: When the dataset is built: ``data_root``, a folder or ``ann_file`` does not
            exist, no image is found, or an image or label lacks its counterpart.
    """

    label_hint = ""
    """How to make label files that are missing, said after the error's first half."""

    def __init__(self, *args: Any, pipeline: Sequence[Any] = (), **kwargs: Any) -> None:
        super().__init__(*args, pipeline=[_checked(step) for step in pipeline], **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the samples as mmseg does, after checking the folders and before anybody reads."""
        name = type(self).__name__
        img_dir, ann_dir = (self.data_prefix.get(k) for k in ("img_path", "seg_map_path"))
        self._check_folder("data_root", self.data_root)
        self._check_folder("data_prefix.img_path", img_dir)
        self._check_folder("data_prefix.seg_map_path", ann_dir)
        if self.ann_file and not fileio.exists(self.ann_file, backend_args=self.backend_args):
            raise InputError(f"{name}: ann_file {self.ann_file} does not exist")
        samples = super().load_data_list()
        if not samples:
            where = self.ann_file or f"{img_dir} with suffix {self.img_suffix!r}"
            raise InputError(f"{name}: no images found in {where}")
        self._check_pairs(samples, img_dir, ann_dir)
        classes = self.METAINFO.get("classes") or self._metainfo["classes"]
        twice = sorted({each for each in classes if list(classes).count(each) > 1})
        if twice:
            raise InputError(f"{name}: metainfo.classes names {', '.join(twice)} twice")
        num_classes = len(classes)
        if num_classes <= 2 and ann_dir:
            self._refuse_black_and_white(samples)
        return [dict(sample, num_classes=num_classes) for sample in samples]

    def _refuse_black_and_white(self, samples: list[dict]) -> None:
        """Refuse masks of 0 and 255 for one or two classes: 255 is ignored, one never occurs.

        One file may lack class 1, a data set may not: reads labels until one has another id.
        """
        held: set[int] = set()
        for sample in samples[:MOST_MASKS]:
            path = sample["seg_map_path"]
            held |= set(
                np.unique(read_image(path, "label", "unchanged", "pillow", self.backend_args))
                .astype(int)
                .tolist()
            )
            if held - {0, IGNORE}:
                return
        if IGNORE in held and len(samples) <= MOST_MASKS:
            first = 1 if self.reduce_zero_label else 0
            zero = ", with reduce_zero_label=True 0 is ignored" if first else ""
            raise InputError(
                f"{type(self).__name__}: the labels in {osp.dirname(samples[0]['seg_map_path'])} "
                f"hold only {' and '.join(map(str, sorted(held)))}, but the classes are {first} "
                f"and {first + 1}{zero} and 255 is ignored: write {first + 1} where they have 255"
            )

    def _check_folder(self, key: str, folder: str | None) -> None:
        if folder and not fileio.isdir(folder, backend_args=self.backend_args):
            what = f"{key} {folder} is not an existing folder{how_to_make(folder)}"
            raise InputError(f"{type(self).__name__}: {what}")

    def _check_pairs(self, samples: list[dict], img_dir: str, ann_dir: str | None) -> None:
        images = {s["img_path"] for s in samples}
        if self.ann_file:
            self._refuse(images - self._listing(img_dir, self.img_suffix), "image", "")
        if not ann_dir:
            return
        labels = {s["seg_map_path"] for s in samples}
        present = self._listing(ann_dir, self.seg_map_suffix)
        self._refuse(labels - present, "label", self.label_hint)
        if not self.ann_file:
            ends = len(self.seg_map_suffix)
            orphans = {osp.relpath(p, ann_dir)[:-ends] for p in present - labels}
            self._refuse({osp.join(img_dir, o + self.img_suffix) for o in orphans}, "image", "")

    def _listing(self, folder: str, suffix: str) -> set[str]:
        names = fileio.list_dir_or_file(
            folder, list_dir=False, suffix=suffix, recursive=True, backend_args=self.backend_args
        )
        return {osp.join(folder, name) for name in names}

    def _refuse(self, missing: set[str], what: str, hint: str) -> None:
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(
                f"{type(self).__name__}: {what} {min(missing)}{more} does not exist, though its "
                f"{'image' if what == 'label' else 'label or list entry'} does{hint}"
            )


def _checked(step: Any) -> Any:
    """mmtokmerge's loader for mmcv's, any other step of a pipeline as it is."""
    if isinstance(step, dict) and step.get("type") == "LoadImageFromFile":
        return {**step, "type": "mmtokmerge.LoadImage"}
    return step


@DATASETS.register_module()
class CityscapesDataset(CheckedFiles, MMSegCityscapes):
    """mmseg's Cityscapes (19 train ids), checked when it is built."""

    label_hint = "; `csCreateTrainIdLabelImgs` of the package cityscapesscripts makes these files"


@DATASETS.register_module()
class ADE20KDataset(CheckedFiles, MMSegADE20K):
    """mmseg's ADE20K (150 classes, label 0 ignored), checked when it is built."""
