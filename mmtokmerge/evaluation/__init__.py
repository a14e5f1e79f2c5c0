"""Registered metrics; those for segmentation need MMSegmentation.

Numbers from predictions and labels, and intervals of their differences: no model, no clock.
"""

from __future__ import annotations

from importlib.util import find_spec

from mmtokmerge.evaluation.saved_predictions import SavedPredictions

__all__: list[str] = ["SavedPredictions"]

if find_spec("mmseg") is not None:
    from mmtokmerge.evaluation.sharing_precision import SharingPrecision
    from mmtokmerge.evaluation.small_class_iou import SmallClassIoUMetric

    __all__ += ["SharingPrecision", "SmallClassIoUMetric"]
