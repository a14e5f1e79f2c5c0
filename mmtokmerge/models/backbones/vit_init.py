"""First weights of a plain ViT without a checkpoint."""

from __future__ import annotations

from mmengine.model.weight_init import constant_init, kaiming_init, trunc_normal_
from torch import nn


def init_vit(model: nn.Module) -> None:
    """Set a ViT's weights, in place, to what mmseg's ``VisionTransformer`` starts from."""
    for name in ("pos_embed", "cls_token", "dist_token"):
        if hasattr(model, name):
            trunc_normal_(getattr(model, name), std=0.02)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None and "ffn" in name:
                nn.init.normal_(module.bias, mean=0.0, std=1e-6)
            elif module.bias is not None:
                nn.init.constant_(module.bias, 0)
        elif isinstance(module, nn.Conv2d):
            kaiming_init(module, mode="fan_in", bias=0.0)
        elif isinstance(module, nn.LayerNorm):
            constant_init(module, val=1.0, bias=0.0)
