"""mIoU and mIoU_small in one evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmseg.evaluation import IoUMetric

from mmtokmerge.errors import InputError
from mmtokmerge.registry import METRICS

SMALL_CLASSES = ("fence", "pole", "traffic light", "traffic sign")


@METRICS.register_module()
class SmallClassIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric`` with ``mIoU_small``, the mean IoU over a few small classes, in percent.

    Segformer++ reports it over Cityscapes' fence, pole, traffic light and traffic sign. A class
    that neither labels nor predictions hold has no IoU and is left out, as in mmseg's mIoU.

    Args:
        small_classes: Names of the classes to average over.
        **kwargs: Arguments of ``IoUMetric``.

    Raises:
        InputError: ``small_classes`` is empty or a string, or, once the dataset is known, names a
            class that it does not have.
    """

    def __init__(self, small_classes: Sequence[str] = SMALL_CLASSES, **kwargs: Any) -> None:
        if isinstance(small_classes, str) or not small_classes:
            raise InputError(
                f"small_classes is {small_classes!r}, but it takes a list of at least one class"
            )
        super().__init__(**kwargs)
        self.small_classes = tuple(small_classes)

    @property
    def dataset_meta(self) -> dict | None:
        """The dataset's meta information; its classes must hold ``small_classes``."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        unknown = [c for c in self.small_classes if c not in meta["classes"]]
        if unknown:
            raise InputError(
                f"small_classes names {', '.join(map(repr, unknown))}, but the dataset's classes "
                f"are {', '.join(meta['classes'])}"
            )
        self._dataset_meta = meta

    def compute_metrics(self, results: list) -> dict[str, float]:
        """mmseg's metrics and ``mIoU_small``, rounded to 0.01 percent alike."""
        metrics = super().compute_metrics(results)
        if not self.format_only:
            metrics["mIoU_small"] = self._small_iou(results)
        return metrics

    def _small_iou(self, results: list) -> float:
        intersect, union, predicted, label = (sum(areas) for areas in zip(*results))
        iou = self.total_area_to_metrics(
            intersect, union, predicted, label, ["mIoU"], self.nan_to_num
        )["IoU"]
        classes = list(self.dataset_meta["classes"])
        small = iou[[classes.index(c) for c in self.small_classes]]
        small = small[~np.isnan(small)]
        return float(np.round(small.mean() * 100, 2)) if small.size else float("nan")
