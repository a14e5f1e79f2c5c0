"""Drawing of generated street scenes with labels; see :mod:`mmtokmerge.datasets.demo_streets`."""

from __future__ import annotations

from mmseg.datasets import CityscapesDataset

CLASS = {name: index for index, name in enumerate(CityscapesDataset.METAINFO["classes"])}
"""Cityscapes' train id of each class name."""
