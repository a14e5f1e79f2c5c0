"""Anybody's images and label maps in two folders."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset

from mmtokmerge.datasets.checked import CheckedFiles
from mmtokmerge.errors import InputError
from mmtokmerge.registry import DATASETS


@DATASETS.register_module()
class FolderDataset(CheckedFiles, BaseSegDataset):
    """mmseg's ``BaseSegDataset``, checked when it is built; a config gives classes and palette.

    Args:
        *args: Arguments of mmseg's ``BaseSegDataset``.
        **kwargs: Arguments of the same: ``metainfo=dict(classes=..., palette=...)``,
            ``data_root``, ``data_prefix``, ``img_suffix`` ('.jpg'), ``seg_map_suffix`` ('.png').

    Raises:
        InputError: ``metainfo`` names no classes, or as many colours; see :class:`CheckedFiles`.
    """

    def load_data_list(self) -> list[dict]:
        """List the samples."""
        classes, palette = (self._metainfo.get(key) for key in ("classes", "palette"))
        check_classes(type(self).__name__, classes, palette)
        return super().load_data_list()


def check_classes(name: str, classes: Any, palette: Any) -> None:
    """Refuse classes that are no names, or colours that are not one for each.

    Raises:
        InputError: They are not.
    """
    texts = isinstance(classes, (list, tuple)) and all(isinstance(each, str) for each in classes)
    if not texts or not classes:
        raise InputError(f"{name}: metainfo.classes must list the classes' names, got {classes!r}")
    if palette is not None and len(palette) != len(classes):
        raise InputError(
            f"{name}: metainfo.palette has {len(palette)} colours for {len(classes)} classes"
        )
