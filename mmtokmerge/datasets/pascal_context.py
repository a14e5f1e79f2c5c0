"""Pascal-Context in mmseg's layout, with the background as a class or without it."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import PascalContextDataset as MMSegPascalContext
from mmseg.datasets import PascalContextDataset59 as MMSegPascalContext59

from mmtokmerge.datasets.checked import CheckedFiles
from mmtokmerge.registry import DATASETS

HINT = "; mmseg's tools/dataset_converters/pascal_context.py makes these files"


@DATASETS.register_module()
class PascalContextDataset(CheckedFiles):
    """Pascal-Context (Mottaghi et al., 2014): 59 classes and, with id 0, the background.

    mmseg's own class is not its base: that asserts that a folder exists even when nothing is read.
    """

    METAINFO = MMSegPascalContext.METAINFO
    label_hint = HINT


@DATASETS.register_module()
class PascalContextDataset59(CheckedFiles):
    """The 59 classes of :class:`PascalContextDataset`: id 0, the background, is ignored."""

    METAINFO = MMSegPascalContext59.METAINFO
    label_hint = HINT

    def __init__(self, *args: Any, reduce_zero_label: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, reduce_zero_label=reduce_zero_label, **kwargs)
