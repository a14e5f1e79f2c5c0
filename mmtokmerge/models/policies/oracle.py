"""The policy that knows: superpatches of a single class in the ground truth share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.models.policies.base import Policy, PolicyInput
from mmtokmerge.registry import MODELS


@MODELS.register_module()
class OraclePolicy(Policy):
    """Scores superpatches by the ground truth, 1 for a single class (CTS, table 2).

    Among equal scores torch's ``topk`` chooses. With fewer single-class superpatches than shall
    share, those with the larger share of their largest class come next.

    Ignored pixels count as a class of their own, so that a cell that mixes them with a class does
    not count as single-class.
    """

    needs_labels = True

    def forward(self, inputs: PolicyInput) -> Tensor:
        if inputs.labels is None:
            raise InputError(
                "OraclePolicy needs ground-truth labels: it works in training and in tests of data "
                "with labels, under model.type='mmtokmerge.SharingEncoderDecoder', and nowhere else"
            )
        return uniformity(inputs.labels, 2 * inputs.patch_size, inputs.cells)


def uniformity(labels: Tensor, cell: int, cells: tuple[int, int]) -> Tensor:
    """How much of each cell its largest class takes, ignored pixels counted as a class.

    Args:
        labels: ``(B, H, W)`` int64.
        cell: Side of a cell in pixels.
        cells: Rows and columns of cells; what reaches over the labels does not count.

    Returns:
        ``(B, rows, columns)`` in (0, 1]; 1 for a cell of a single class.
    """
    rows, columns = cells
    short = (rows * cell - labels.shape[1], columns * cell - labels.shape[2])
    outside = -1
    labels = F.pad(labels, (0, short[1], 0, short[0]), value=outside)
    parts = labels.unflatten(2, (columns, cell)).unflatten(1, (rows, cell))
    parts = parts.permute(0, 1, 3, 2, 4).flatten(3)  # (B, rows, columns, pixels)
    # In a sorted row the longest run of equal labels is the largest class.
    ordered = parts.sort(dim=3).values
    place = torch.arange(ordered.shape[3], device=labels.device)
    opens = F.pad(ordered[..., 1:] != ordered[..., :-1], (1, 0), value=True)
    starts = torch.where(opens, place, 0).cummax(3).values
    runs = torch.where(ordered == outside, 0, place - starts + 1)
    counted = (ordered != outside).sum(3).clamp(min=1)
    return runs.amax(3).clamp(min=1) / counted
