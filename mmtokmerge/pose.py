"""What a script needs before it uses MMPose's own interfaces with this package's models.

``import_mmpose`` imports MMPose also where MMCV has no compiled operators; after it,
``from mmpose.apis import MMPoseInferencer`` and the like work as usual. The types of this package
that need MMPose are found by their prefix ``mmtokmerge.`` as all others are.
"""

from __future__ import annotations

from mmtokmerge._mmpose_import import import_mmpose

__all__ = ["import_mmpose"]
