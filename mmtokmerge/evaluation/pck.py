"""PCK at several thresholds and the mean error in one evaluation; importing this needs MMPose."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmpose.evaluation.functional import keypoint_epe, keypoint_pck_accuracy
from mmpose.evaluation.metrics import PCKAccuracy

from mmtokmerge.errors import InputError
from mmtokmerge.registry import METRICS


@METRICS.register_module()
class BoxPCK(PCKAccuracy):
    """mmpose's ``PCKAccuracy`` normalised by the box, at several thresholds, with the mean error.

    ``PCK@t`` is the fraction (0 to 1) of visible keypoints that lie nearer to the truth than ``t``
    times the longer side of the box, averaged over the kinds of keypoints; ``mean_error`` the mean
    distance in percent of that side, over all visible keypoints. Samples from detector boxes carry
    no true keypoints: there is then no PCK, and a warning says so.

    Args:
        thresholds: Fractions of the box, such as ``(0.1, 0.05)``.
        collect_device: 'cpu' or 'gpu', where results of several processes meet.
        prefix: Put before the names, with a slash.

    Raises:
        InputError: If ``thresholds`` is empty or holds something else than positive numbers.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = (0.1, 0.05),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        self.thresholds = _read_thresholds(thresholds)
        super().__init__(norm_item="bbox", collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: Sequence[dict], data_samples: Sequence[dict]) -> None:
        """Keep what each sample with true keypoints contributes, and count the others."""
        for sample in data_samples:
            if np.any(sample["gt_instances"]["keypoints"]):
                super().process(data_batch, [sample])
            else:
                self.results.append(None)

    def compute_metrics(self, results: list[dict[str, Any] | None]) -> dict[str, float]:
        """``PCK@t`` for each threshold, and ``mean_error`` in percent of the box."""
        known = [result for result in results if result is not None]
        if len(known) < len(results):
            print_log(
                f"{len(results) - len(known)} of {len(results)} samples come from detector boxes, "
                "which have no true keypoints: PCK leaves them out.",
                logger="current",
                level=logging.WARNING,
            )
        if not known:
            return {}
        keys = ("pred_coords", "gt_coords", "mask", "bbox_size")
        pred, truth, mask, size = (
            np.concatenate([result[key] for result in known]) for key in keys
        )
        mask &= size[:, :1] > 0  # (N, K)
        metrics = {
            f"PCK@{threshold:g}": float(
                keypoint_pck_accuracy(pred, truth, mask, threshold, size.copy())[1]
            )
            for threshold in self.thresholds
        }
        sides = size.clip(min=1e-6)[:, None]  # (N, 1, 2)
        metrics["mean_error"] = 100 * float(keypoint_epe(pred / sides, truth / sides, mask))
        return metrics


def _read_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(thresholds) if isinstance(thresholds, (list, tuple)) else ()
    right = all(isinstance(t, (int, float)) and not isinstance(t, bool) and t > 0 for t in numbers)
    if not numbers or not right:
        raise InputError(
            f"thresholds is {thresholds!r}, but it takes a list of positive fractions of the box, "
            "such as [0.1, 0.05]"
        )
    return numbers
