"""Registered losses, and the functions that they are made of."""

from .atm_loss import ATMLoss
from .mask_losses import dice_loss, focal_loss

__all__ = ["ATMLoss", "dice_loss", "focal_loss"]
