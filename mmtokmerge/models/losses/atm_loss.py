"""The loss of attention-to-mask: which classes an image holds, and where each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine import dist
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.models.losses.mask_losses import dice_loss, focal_loss
from mmtokmerge.registry import MODELS


@dataclass(frozen=True, eq=False)
class ClassMasks:
    """The classes that the labels of a batch hold.

    Args:
        present: ``(B, K)`` bool, whether an image holds a class.
        labelled: ``(B,)`` bool, whether an image has a pixel with a label.
        image: ``(P,)`` the image of each class that is there.
        index: ``(P,)`` the class.
        label: ``(B, H, W)`` the labels.
        known: ``(B, H, W)`` bool, whether a pixel has a label.
    """

    present: Tensor
    labelled: Tensor
    image: Tensor
    index: Tensor
    label: Tensor
    known: Tensor

    @classmethod
    def of_label(cls, label: Tensor, num_classes: int, ignore_index: int | None) -> ClassMasks:
        """Read labels ``(B, H, W)`` of class numbers.

        Raises:
            ValueError: If a label is neither a class nor ``ignore_index``.
        """
        known = torch.ones_like(label, dtype=torch.bool)
        if ignore_index is not None:
            known = label != ignore_index
        wrong = known & ((label < 0) | (label >= num_classes))
        if label.device.type != "cpu":  # a sentence would wait for the device
            torch._assert_async(~wrong.any(), "a label is neither a class nor ignore_index")
        elif bool(wrong.any()):
            raise InputError(
                f"a label has the number {int(label[wrong][0])}, but decode_head.num_classes is "
                f"{num_classes} and ignore_index {ignore_index}"
            )
        counted = torch.where(known, label, num_classes).flatten(1).long()
        present = known.new_zeros(len(label), num_classes + 1)
        present = present.scatter_(1, counted, True)[:, :num_classes]
        image, index = present.nonzero(as_tuple=True)
        return cls(present, present.any(1), image, index, label, known)

    def masks(self) -> tuple[Tensor, Tensor]:
        """``(P, H*W)`` bool twice: which pixels are of the class, and which have a label."""
        own = self.label[self.image] == self.index[:, None, None]
        return own.flatten(1), self.known[self.image].flatten(1)


@MODELS.register_module()
class ATMLoss(nn.Module):
    """Classification and mask losses of every level of the cascade (SegViT, section 3.3).

    A class embedding is to say its own class where the image holds it and 'no object' elsewhere;
    an image without any label says neither. Masks are compared at the label's size, only those of
    classes that are there, and averaged over the masks of all processes.

    Args:
        class_weight: Weight of the cross-entropy.
        focal_weight: Weight of the focal loss of masks.
        dice_weight: Weight of the dice loss of masks.
        no_object_weight: Weight of embeddings whose class is absent, within the cross-entropy.
        alpha: See :func:`focal_loss`.
        gamma: See :func:`focal_loss`.

    Raises:
        ValueError: If a weight is negative.
    """

    def __init__(
        self,
        class_weight: float = 1.0,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        no_object_weight: float = 0.1,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.class_weight = class_weight
        self.focal_weight = focal_weight
        self.dice_weight = dice_weight
        self.no_object_weight = no_object_weight
        self.alpha = alpha
        self.gamma = gamma
        for key in ("class_weight", "focal_weight", "dice_weight", "no_object_weight"):
            if getattr(self, key) < 0:
                raise InputError(
                    f"loss_decode.{key} must not be negative, got {getattr(self, key)}"
                )

    def forward(
        self,
        levels: Sequence[tuple[Tensor, Tensor]],
        label: Tensor,
        ignore_index: int | None = 255,
        align_corners: bool = False,
    ) -> dict[str, Tensor]:
        """The losses of all levels.

        Args:
            levels: For each level class logits ``(B, K, K + 1)``, of K embeddings for K classes and
                'no object', and mask logits ``(B, K, h, w)``.
            label: ``(B, H, W)`` class numbers.
            ignore_index: The number of pixels without a label.
            align_corners: Whether masks' upsampling to ``(H, W)`` aligns corners.

        Returns:
            Scalars ``loss_class_{i}``, ``loss_focal_{i}`` and ``loss_dice_{i}``, i from 1.

        Raises:
            ValueError: If a label is neither a class nor ``ignore_index``.
        """
        truth = ClassMasks.of_label(label, levels[0][0].shape[1], ignore_index)
        number = torch.tensor(float(len(truth.image)), device=label.device)
        dist.all_reduce(number, op="mean")
        number = number.clamp(min=1)
        own, known = truth.masks()
        losses = {}
        for i, (class_logits, mask_logits) in enumerate(levels, 1):
            masks = mask_logits.float()[truth.image, truth.index]  # (P, h, w)
            masks = F.interpolate(
                masks[:, None], label.shape[1:], mode="bilinear", align_corners=align_corners
            ).flatten(1)
            focal = focal_loss(masks, own, known, self.alpha, self.gamma).sum() / number
            dice = dice_loss(masks, own, known).sum() / number
            losses[f"loss_class_{i}"] = self.class_weight * self._class_loss(class_logits, truth)
            losses[f"loss_focal_{i}"] = self.focal_weight * focal
            losses[f"loss_dice_{i}"] = self.dice_weight * dice
        return losses

    def _class_loss(self, logits: Tensor, truth: ClassMasks) -> Tensor:
        """Cross-entropy of ``(B, K, K + 1)``, the mean by weight over embeddings; 0 of none."""
        num_classes = logits.shape[1]
        own = torch.arange(num_classes, device=logits.device)
        targets = torch.where(truth.present, own, num_classes)  # (B, K)
        entropy = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        weights = torch.where(truth.present, 1.0, self.no_object_weight) * truth.labelled[:, None]
        return (entropy * weights).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)
