"""The baselines that count: mmseg's own encoders, with nothing changed but fused attention."""

from __future__ import annotations

from typing import Any

from mmseg.models.backbones import VisionTransformer
from mmseg.models.backbones.mit import EfficientMultiheadAttention, MixVisionTransformer
from torch import Tensor, nn

from mmtokmerge.registry import MODELS


@MODELS.register_module()
class FusedMixVisionTransformer(MixVisionTransformer):
    """mmseg's ``MixVisionTransformer`` whose attention does not ask for the weights.

    mmseg asks :class:`torch.nn.MultiheadAttention` for the attention weights and throws them away,
    which keeps torch from its fused kernel. Arguments are ``MixVisionTransformer``'s.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fuse_attention(self)


def fuse_attention(encoder: MixVisionTransformer) -> None:
    """Let the attention of mmseg's encoder not ask for the weights, which it throws away."""
    for module in encoder.modules():
        if isinstance(module, EfficientMultiheadAttention):
            module.attn.register_forward_pre_hook(_without_weights, with_kwargs=True)


@MODELS.register_module()
class FusedVisionTransformer(VisionTransformer):
    """mmseg's ``VisionTransformer`` whose attention does not ask for the weights.

    Arguments are ``VisionTransformer``'s.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.register_forward_pre_hook(_without_weights, with_kwargs=True)


def _without_weights(
    module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    return args, {**kwargs, "need_weights": False}
