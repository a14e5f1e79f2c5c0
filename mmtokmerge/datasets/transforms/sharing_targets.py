"""What a policy network learns: which superpatches hold a single class (CTS, section 3.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from mmtokmerge.checks import one_of, whole_number
from mmtokmerge.registry import TRANSFORMS

BORDERS = ("split", "ignore", "edge")


@TRANSFORMS.register_module()
class GenerateSharingTargets(BaseTransform):
    """Turn a label of pixels into one of superpatches, in ``results['gt_seg_map']``.

    Each cell of ``patch_size * superpatch`` pixels becomes 1 (its patches may share a token) if its
    pixels are all of one class, or all ignored; 0 if it holds two classes or more; and what
    ``border`` says if it holds one class beside ignored pixels. The last row and column are cells
    of what is left of the image. Put it after cropping and ``Pad``, so that the cells are those
    that the network sees.

    Args:
        patch_size: Side of a patch in pixels.
        superpatch: Side of a superpatch in patches.
        border: Cells of one class and ignored pixels are not shared ('split'), left out of loss
            and metric ('ignore'), or left out if they lie on the image's edge and not shared
            elsewhere ('edge', as CTS's authors do on ADE20K).
        ignore_index: The id of ignored pixels, and of the cells that are left out.

    Raises:
        TypeError: If a size is not an int.
        ValueError: If a size is below 1 or ``border`` is unknown.
    """

    def __init__(
        self,
        patch_size: int = 16,
        superpatch: int = 2,
        border: str = "split",
        ignore_index: int = 255,
    ) -> None:
        for name, value in (("patch_size", patch_size), ("superpatch", superpatch)):
            whole_number(name, value, 1)
        one_of("border", border, BORDERS)
        self.cell = patch_size * superpatch
        self.border = border
        self.ignore_index = ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace the label ``(H, W)`` by one of ``(ceil(H / cell), ceil(W / cell))`` uint8."""
        results["gt_seg_map"] = sharing_targets(
            results["gt_seg_map"], self.cell, self.border, self.ignore_index
        )
        return results


def sharing_targets(
    label: np.ndarray, cell: int, border: str = "split", ignore_index: int = 255
) -> np.ndarray:
    """Whether each cell of ``cell`` pixels of a label ``(H, W)`` holds a single class.

    Least and greatest id of a cell tell: running minima and maxima over rows, then columns, touch
    each pixel twice, however many classes there are.

    Returns:
        ``(ceil(H / cell), ceil(W / cell))`` uint8: 1 share, 0 do not, ``ignore_index`` leave out.
    """
    valid = label != ignore_index
    kinds = label.astype(np.int32, copy=False)
    least = _reduce(np.minimum, np.where(valid, kinds, np.iinfo(np.int32).max), cell)
    greatest = _reduce(np.maximum, np.where(valid, kinds, -1), cell)
    any_ignored = ~_reduce(np.logical_and, valid, cell)
    all_ignored = greatest < 0
    single = all_ignored | (least == greatest)
    mixed = single & any_ignored & ~all_ignored
    targets = single.astype(np.uint8)
    inner = mixed.copy()
    inner[[0, -1]] = inner[:, [0, -1]] = False
    targets[mixed] = 0 if border == "split" else ignore_index
    if border == "edge":
        targets[inner] = 0
    return targets


def _reduce(ufunc: np.ufunc, values: np.ndarray, cell: int) -> np.ndarray:
    rows = ufunc.reduceat(values, np.arange(0, values.shape[0], cell), axis=0)
    return ufunc.reduceat(rows, np.arange(0, values.shape[1], cell), axis=1)
