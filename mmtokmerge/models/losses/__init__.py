"""Registered losses, and the functions that they are made of."""

from mmtokmerge.models.losses.atm_loss import ATMLoss
from mmtokmerge.models.losses.mask_losses import dice_loss, focal_loss

__all__ = ["ATMLoss", "dice_loss", "focal_loss"]
