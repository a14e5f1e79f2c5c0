"""Mice in an open field, seen from above (the example project of DeepLabCut)."""

from __future__ import annotations

from typing import ClassVar

from mmtokmerge.datasets.pose.checked import CheckedKeypoints
from mmtokmerge.datasets.pose.metainfo import make_metainfo
from mmtokmerge.registry import DATASETS


@DATASETS.register_module()
class MouseKeypoints(CheckedKeypoints):
    """4 keypoints of one mouse an image, in COCO's format.

    Arguments are those of mmpose's ``BaseCocoStyleDataset``.
    """

    METAINFO: ClassVar[dict] = make_metainfo(
        "mouse",
        ("snout", "leftear", "rightear", "tailbase"),
        pairs=(("rightear", "leftear"),),
        links=(
            ("snout", "leftear"),
            ("snout", "rightear"),
            ("leftear", "tailbase"),
            ("rightear", "tailbase"),
        ),
    )
