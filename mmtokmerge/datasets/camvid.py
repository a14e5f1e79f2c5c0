"""CamVid with the 11 classes that SegNet and all later work use."""

from __future__ import annotations

from typing import ClassVar

from mmtokmerge.datasets.checked import CheckedFiles
from mmtokmerge.registry import DATASETS

CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
VOID = len(CLASSES)


@DATASETS.register_module()
class CamVidDataset(CheckedFiles):
    """CamVid (Brostow et al., 2009), 11 classes; pixels of no class are 255, or 11 as in SegNet's.

    Layouts, chosen by ``data_prefix`` and ``img_suffix``:

    - ``images/{train,val}/*.jpg`` with ``annotations/{train,val}/*.png`` (the defaults of
      ``configs/_base_/datasets/camvid.py``);
    - the SegNet release, ``{train,val,test}/*.png`` with ``{train,val,test}annot/*.png``
      (``configs/_base_/datasets/camvid_segnet.py``);
    - the 32-class colour release, after ``tools/dataset_converters/camvid.py``.
    """

    METAINFO: ClassVar[dict] = {
        "classes": CLASSES,
        "palette": [list(colour) for colour in PALETTE],
    }

    def load_data_list(self) -> list[dict]:
        """List the samples; each also says that id 11 is void."""
        label_map = {**(self.label_map or {}), VOID: 255}
        return [dict(sample, label_map=label_map) for sample in super().load_data_list()]
