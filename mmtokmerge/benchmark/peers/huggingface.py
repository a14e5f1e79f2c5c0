"""Hugging Face's SegFormer encoder, with the arguments and the state dict of mmseg's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerModel

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights import FORMATS, rename

STAGES = 4


class HuggingFaceMiT(nn.Module):
    """``transformers.SegformerModel`` as it is, as a backbone of mmseg.

    Loads state dicts of mmseg's ``MixVisionTransformer``. Its norms take the epsilon of
    ``norm_cfg``, so that the same weights give the same output.

    Args:
        embed_dims: Channels of a head.
        num_layers: Layers of each stage.
        num_heads: Heads of each stage.
        sr_ratios: Spatial reduction of keys and values in each stage.
        patch_sizes: Kernel of each patch embedding.
        strides: Stride of each patch embedding.
        mlp_ratio: Hidden channels of the MixFFN over the stage's.
        qkv_bias: Must be True.
        in_channels: Channels of the image.
        out_indices: Stages whose maps are returned.
        drop_rate: Dropout after attention and in the MixFFN.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last layer.
        norm_cfg: mmcv's config of the norms, of type LN.
        act_cfg: mmcv's config of the activation, of type GELU.
        with_cp: Must be False.

    Raises:
        InputError: If a setting is one that Hugging Face's encoder does not have.
    """

    def __init__(
        self,
        embed_dims: int,
        num_layers: Sequence[int],
        num_heads: Sequence[int],
        sr_ratios: Sequence[int],
        patch_sizes: Sequence[int],
        strides: Sequence[int],
        mlp_ratio: int,
        qkv_bias: bool = True,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        norm = dict(norm_cfg or dict(type="LN", eps=1e-6))
        kinds = norm["type"], (act_cfg or dict(type="GELU"))["type"]
        if kinds != ("LN", "GELU") or not qkv_bias or with_cp:
            raise InputError(
                "--peers huggingface has norms LN, activation GELU, a bias in the projections and "
                f"no with_cp, but the first config has {kinds[0]}, {kinds[1]}, "
                f"qkv_bias={qkv_bias} and with_cp={with_cp}."
            )
        self.out_indices = tuple(out_indices)
        config = SegformerConfig(
            num_channels=in_channels,
            num_encoder_blocks=STAGES,
            depths=list(num_layers),
            sr_ratios=list(sr_ratios),
            hidden_sizes=[embed_dims * heads for heads in num_heads],
            patch_sizes=list(patch_sizes),
            strides=list(strides),
            num_attention_heads=list(num_heads),
            mlp_ratios=[mlp_ratio] * STAGES,
            hidden_dropout_prob=drop_rate,
            attention_probs_dropout_prob=attn_drop_rate,
            drop_path_rate=drop_path_rate,
        )
        self.model = SegformerModel(config)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = norm.get("eps", 1e-5)
        self.register_load_state_dict_pre_hook(_rename)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Encode images ``(B, 3, H, W)``; a map ``(B, C, h, w)`` for each of ``out_indices``."""
        maps = self.model(images, output_hidden_states=True).hidden_states
        return tuple(maps[index] for index in self.out_indices)


def _rename(
    module: HuggingFaceMiT, state_dict: dict[str, Tensor], prefix: str, *_: Any, **__: Any
) -> None:
    """Put Hugging Face's names in the place of mmseg's in a state dict about to be loaded."""
    start = f"{prefix}layers."
    ours = {
        key[len(prefix) :]: state_dict.pop(key) for key in [*state_dict] if key.startswith(start)
    }
    if ours:
        for key, value in to_hugging_face(ours, module.model.state_dict()).items():
            state_dict[f"{prefix}model.{key}"] = value


def to_hugging_face(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The inverse of the conversion of Hugging Face's weights to ours.

    Every value of ``wanted`` gets a number, the numbers go through the conversion, and where a
    number arrives stands the weight that belongs there.

    Args:
        weights: Keys of mmseg's ``MixVisionTransformer``.
        wanted: State dict of Hugging Face's encoder; its names and shapes count.
    """
    numbers, total = {}, 0
    for key, value in wanted.items():
        numbers[key] = torch.arange(total, total + value.numel()).view(value.shape)
        total += value.numel()
    values = torch.empty(total)
    for key, places in rename(numbers, FORMATS["hf"]).weights.items():
        values[places.flatten()] = weights[key.removeprefix("backbone.")].float().flatten()
    return {key: values[places] for key, places in numbers.items()}
