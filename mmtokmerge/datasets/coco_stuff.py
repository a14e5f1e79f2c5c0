"""COCO-Stuff in mmseg's layout."""

from __future__ import annotations

from mmseg.datasets import COCOStuffDataset as MMSegCOCOStuff

from mmtokmerge.datasets.checked import CheckedFiles
from mmtokmerge.registry import DATASETS


@DATASETS.register_module()
class COCOStuffDataset(CheckedFiles, MMSegCOCOStuff):
    """mmseg's COCO-Stuff (171 classes), checked when it is built.

    The files of COCO-Stuff-10K name the classes 1 to 171 and 0 what is unlabeled: its config sets
    ``reduce_zero_label``.
    """

    label_hint = "; mmseg's tools/dataset_converters/coco_stuff10k.py makes these files"
