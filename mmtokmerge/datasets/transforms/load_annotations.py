"""Loading a segmentation label, or one sentence that names the file and what is wrong in it."""

from __future__ import annotations

import cv2
import numpy as np
from mmseg.datasets.transforms import LoadAnnotations

from mmtokmerge.checks import boolean
from mmtokmerge.datasets.transforms.files import read_image
from mmtokmerge.errors import InputError
from mmtokmerge.registry import TRANSFORMS

IGNORE = 255


@TRANSFORMS.register_module()
class LoadSegAnnotations(LoadAnnotations):
    """mmseg's ``LoadAnnotations`` that refuses a label that does not fit its image or its classes.

    Adds ``gt_seg_map`` ``(H, W)`` uint8: the file's ids after ``reduce_zero_label`` (0 becomes 255
    and the others fall by one) and ``label_map``. An image without ``seg_map_path`` passes through,
    which is what predicting on a bare image needs; a checked dataset has none.

    Args:
        num_classes: Classes that a file's ids may name; ``None`` takes the dataset's own
            ``num_classes``, which the checked datasets put into the results.
        reduce_zero_label: As mmseg's step has it: what the dataset is set to, or None.
        imdecode_backend: mmcv's decoding backend.
        backend_args: Arguments of mmengine's file backend.

    Raises:
        InputError: When called: the label cannot be read, is not one channel, has another size
            than the image, or holds an id that is neither a class nor 255.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        reduce_zero_label: bool | None = None,
        imdecode_backend: str = "pillow",
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(imdecode_backend=imdecode_backend, backend_args=backend_args)
        self.num_classes = num_classes
        if reduce_zero_label is not None:
            boolean("LoadSegAnnotations: reduce_zero_label", reduce_zero_label)
        self.reduce_zero_label = reduce_zero_label  # not mmseg's, which warns and remembers

    def transform(self, results: dict) -> dict:
        """Load ``results['seg_map_path']``."""
        return super().transform(results) if results.get("seg_map_path") else results

    def _load_seg_map(self, results: dict) -> None:
        path = results["seg_map_path"]
        label = read_image(path, "label", "unchanged", self.imdecode_backend, self.backend_args)
        check_shape(label, path, results)
        lut = self._id_lut(results)
        check_ids(label, path, lut)
        label = label.astype(np.uint8, copy=False)
        unchanged = np.array_equal(lut[lut >= 0], np.flatnonzero(lut >= 0))
        results["gt_seg_map"] = label if unchanged else cv2.LUT(label, lut.clip(0).astype(np.uint8))
        results["seg_fields"].append("gt_seg_map")

    def _id_lut(self, results: dict) -> np.ndarray:
        """What each of a file's ids becomes, ``(256,)``; -1 marks ids that may not occur."""
        num_classes = self.num_classes or results.get("num_classes")
        if num_classes is None:
            raise InputError(
                "LoadSegAnnotations cannot check label ids: set num_classes, or use one of "
                "mmtokmerge's datasets, which set it"
            )
        classes = np.full(256, -1, dtype=np.int64)
        classes[:num_classes] = np.arange(num_classes)
        classes[IGNORE] = IGNORE
        for old, new in (results.get("label_map") or {}).items():
            classes[old] = new
        of_dataset = bool(results.get("reduce_zero_label"))
        if self.reduce_zero_label not in (None, of_dataset):
            raise InputError(
                f"LoadSegAnnotations has reduce_zero_label={self.reduce_zero_label}, but its "
                f"dataset has {of_dataset}: set both alike, or only the dataset's"
            )
        if not of_dataset:
            return classes
        return np.concatenate(([IGNORE], classes[: IGNORE - 1], [IGNORE]))


def check_shape(label: np.ndarray, path: str, results: dict) -> None:
    """Refuse a label of several channels, or of another size than the image before resizing."""
    if label.ndim != 2:
        raise InputError(
            f"label {path} has {label.shape[-1]} channels, but a label is one channel of class ids"
        )
    image_shape = tuple(results.get("ori_shape", label.shape))
    if label.shape != image_shape:
        raise InputError(
            f"label {path} is {label.shape[1]}x{label.shape[0]} pixels (width x height), but its "
            f"image {results.get('img_path')} is {image_shape[1]}x{image_shape[0]}"
        )


def check_ids(label: np.ndarray, path: str, lut: np.ndarray) -> None:
    """Refuse a label with an id that ``lut`` marks -1; a histogram costs about 1 ms for 2 Mpx."""
    if label.dtype == np.uint8:
        present = np.flatnonzero(cv2.calcHist([label], [0], None, [256], [0, 256]))
    else:
        present = np.unique(label).astype(np.int64)
    wrong = [int(i) for i in present if not 0 <= i < len(lut) or lut[i] < 0]
    if wrong:
        shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        classes = np.flatnonzero((lut >= 0) & (np.arange(len(lut)) != IGNORE))
        raise InputError(
            f"label {path} holds ids outside the classes: {shown}; allowed are "
            f"{classes.min()} to {classes.max()}, and 255 for ignored pixels"
        )
