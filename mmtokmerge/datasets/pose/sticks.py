"""The generated stick figures: JBD's keypoints on drawn athletes."""

from __future__ import annotations

from typing import ClassVar

from mmtokmerge.datasets.keypoints.jumper import (
    JUMPER_KEYPOINTS,
    JUMPER_LINKS,
    JUMPER_LOWER,
    JUMPER_PAIRS,
)
from mmtokmerge.datasets.pose.checked import CheckedKeypoints
from mmtokmerge.datasets.pose.metainfo import make_metainfo
from mmtokmerge.registry import DATASETS


@DATASETS.register_module()
class StickFigures(CheckedKeypoints):
    """20 keypoints of a drawn jumper, made by ``tools/dataset_converters/stick_figures.py``.

    Arguments are those of mmpose's ``BaseCocoStyleDataset``.
    """

    METAINFO: ClassVar[dict] = make_metainfo(
        "sticks", JUMPER_KEYPOINTS, JUMPER_PAIRS, JUMPER_LINKS, JUMPER_LOWER
    )
