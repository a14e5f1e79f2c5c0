"""Registered transforms; those for segmentation need MMSegmentation."""

from __future__ import annotations

from importlib.util import find_spec

from mmtokmerge.datasets.transforms.load_image import LoadImage

__all__ = ["LoadImage"]

if find_spec("mmseg") is not None:
    from mmtokmerge.datasets.transforms.load_annotations import LoadSegAnnotations
    from mmtokmerge.datasets.transforms.sharing_targets import GenerateSharingTargets

    __all__ += ["GenerateSharingTargets", "LoadSegAnnotations"]
