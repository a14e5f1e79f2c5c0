"""Registered datasets and transforms; those for segmentation need MMSegmentation.

What reads, checks and draws files; nothing here knows a model. ``keypoints`` and ``streets`` need
no mm* package, ``pose`` needs MMPose and is imported when one of its types is asked for.
"""

from __future__ import annotations

from importlib.util import find_spec

from mmtokmerge.quiet import quiet_imports

if find_spec("mmseg") is not None:
    with quiet_imports():  # here for what it prints of data sets that are not used
        import mmseg.datasets  # noqa: F401

from mmtokmerge.datasets import transforms

__all__ = ["transforms"]

if find_spec("mmseg") is not None:
    from mmtokmerge.datasets.camvid import CamVidDataset
    from mmtokmerge.datasets.checked import ADE20KDataset, CheckedFiles, CityscapesDataset
    from mmtokmerge.datasets.coco_stuff import COCOStuffDataset
    from mmtokmerge.datasets.endless_streets import EndlessStreets
    from mmtokmerge.datasets.folder import FolderDataset
    from mmtokmerge.datasets.pascal_context import PascalContextDataset, PascalContextDataset59

    __all__ += [
        "ADE20KDataset",
        "COCOStuffDataset",
        "CamVidDataset",
        "CheckedFiles",
        "CityscapesDataset",
        "EndlessStreets",
        "FolderDataset",
        "PascalContextDataset",
        "PascalContextDataset59",
    ]
