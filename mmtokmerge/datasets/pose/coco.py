"""COCO's people with 17 keypoints."""

from __future__ import annotations

from mmpose.datasets.datasets.body import CocoDataset

from mmtokmerge.datasets.pose.checked import CheckedKeypoints
from mmtokmerge.registry import DATASETS


@DATASETS.register_module()
class CocoKeypoints(CheckedKeypoints, CocoDataset):
    """mmpose's COCO (17 keypoints), checked when it is built."""
