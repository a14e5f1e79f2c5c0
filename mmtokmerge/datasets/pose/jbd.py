"""The Jumping Broadcast Dataset (Ludwig et al., 2023): athletes in triple, high and long jump."""

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
class JBDDataset(CheckedKeypoints):
    """20 keypoints of one athlete an image, head to toes, in COCO's format.

    ``tools/dataset_converters/jbd.py`` makes the files from the release's tables. Arguments are
    those of mmpose's ``BaseCocoStyleDataset``.
    """

    METAINFO: ClassVar[dict] = make_metainfo(
        "jbd", JUMPER_KEYPOINTS, JUMPER_PAIRS, JUMPER_LINKS, JUMPER_LOWER
    )
