"""Losses of a class's mask against its pixels, over the pixels whose label is known."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def focal_loss(
    logits: Tensor, targets: Tensor, known: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Binary focal loss of each mask (Lin et al., ICCV 2017, equation 5).

    Args:
        logits: ``(P, n)`` of P masks before the sigmoid.
        targets: ``(P, n)`` bool, whether a pixel belongs to the mask.
        known: ``(P, n)`` bool, whether a pixel counts.
        alpha: Weight of pixels that belong, ``1 - alpha`` that of the others.
        gamma: How much pixels that are already right are played down.

    Returns:
        ``(P,)`` the mean over the pixels that count; 0 where none does.
    """
    truth = targets.to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    chance = logits.sigmoid()
    wrong = chance + truth - 2 * chance * truth  # 1 - p of what is true
    weight = (1 - alpha) + (2 * alpha - 1) * truth
    losses = (weight * wrong.pow(gamma) * entropy).masked_fill(~known, 0)
    return losses.sum(1) / known.sum(1).clamp(min=1)


def dice_loss(logits: Tensor, targets: Tensor, known: Tensor, smooth: float = 1.0) -> Tensor:
    """Dice loss of each mask, with plain sums in the denominator as MaskFormer has it.

    Args:
        logits: ``(P, n)`` of P masks before the sigmoid.
        targets: ``(P, n)`` bool, whether a pixel belongs to the mask.
        known: ``(P, n)`` bool, whether a pixel counts.
        smooth: Added to numerator and denominator.

    Returns:
        ``(P,)``, ``1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)``.
    """
    chance = logits.sigmoid().masked_fill(~known, 0)
    truth = (targets & known).to(logits.dtype)
    overlap = (chance * truth).sum(1)
    return 1 - (2 * overlap + smooth) / (chance.sum(1) + truth.sum(1) + smooth)
