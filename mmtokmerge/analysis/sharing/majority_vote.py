"""One class for all pixels that share a token: a majority vote (CTS, section 5.5, table 7a)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.merging import TokenAssignment

ALONE = -1
SHARING = 4


def majority_vote(prediction: Tensor, regions: Tensor) -> Tensor:
    """Give the pixels of each region the class that most of them have.

    Where two classes have as many pixels, the smaller id wins.

    Args:
        prediction: ``(H, W)`` class ids from 0.
        regions: ``(H, W)`` int64 ids from 0; pixels of -1 keep their class.

    Returns:
        ``(H, W)`` in the dtype of ``prediction``.

    Raises:
        ValueError: If the two have different sizes.
    """
    if prediction.shape != regions.shape:
        raise InputError(
            f"a prediction of {tuple(prediction.shape)} pixels cannot be voted on in regions of "
            f"{tuple(regions.shape)}"
        )
    voting = regions >= 0
    if not bool(voting.any()):
        return prediction.clone()
    classes, places = prediction[voting].long(), regions[voting]
    kinds = int(classes.max()) + 1
    # One row a region that has pixels: only a few of all ids may be in use.
    present, rows = torch.unique(places, return_inverse=True)
    counts = torch.bincount(rows * kinds + classes, minlength=len(present) * kinds)
    order = torch.arange(kinds, 0, -1, device=counts.device)  # argmax takes any of equals
    winners = (counts.view(-1, kinds) * kinds * 2 + order).argmax(1)
    voted = prediction.clone()
    voted[voting] = winners[rows].to(prediction.dtype)
    return voted


def shared_regions(
    sharing: TokenAssignment,
    hw: tuple[int, int],
    patch: tuple[int, int],
    image: tuple[int, int],
    output: tuple[int, int],
) -> Tensor:
    """Which superpatch each pixel of a prediction lies in, if its patches share a token.

    The network's input is the image, padded at the bottom and at the right; its prediction, cut to
    the image, is resized to ``output``. A pixel of it belongs to the patch in which its centre
    lies.

    Args:
        sharing: The assignment of one image's ``h * w`` patches.
        hw: Grid of patches ``(h, w)``.
        patch: Height and width of a patch in pixels of the input.
        image: Height and width of the image in the input, without padding.
        output: Height and width of the prediction.

    Returns:
        ``(H, W)`` int64 of the output: the group of four patches, -1 where a patch stands alone.

    Raises:
        ValueError: If the assignment is not of one image's ``h * w`` patches.
    """
    groups, sizes = sharing.groups, sharing.sizes
    if tuple(groups.shape) != (1, hw[0] * hw[1]):
        raise InputError(
            f"an assignment of {tuple(groups.shape)} patches does not fit one image with a grid "
            f"of {hw[0]}x{hw[1]}"
        )
    cells = torch.where(sizes.gather(1, groups) == SHARING, groups, ALONE).view(hw)
    rows, columns = (
        # Whole numbers, so that no centre falls into a neighbour by rounding.
        (2 * torch.arange(length, device=groups.device) + 1) * side // (2 * length * cell)
        for length, side, cell in zip(output, image, patch)
    )
    return cells[rows[:, None], columns]
