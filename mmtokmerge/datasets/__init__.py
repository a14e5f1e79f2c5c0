"""Registered datasets and transforms; those for segmentation need MMSegmentation."""

from __future__ import annotations

from importlib.util import find_spec

from mmtokmerge.datasets import transforms

__all__ = ["transforms"]

if find_spec("mmseg") is not None:
    from mmtokmerge.datasets.camvid import CamVidDataset
    from mmtokmerge.datasets.checked import ADE20KDataset, CheckedFiles, CityscapesDataset

    __all__ += ["ADE20KDataset", "CamVidDataset", "CheckedFiles", "CityscapesDataset"]
