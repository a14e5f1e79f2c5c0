"""Segmenter's two decoders, on tokens that may stand for several patches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import ModuleList
from mmseg.models.decode_heads import SegmenterMaskTransformerHead as StockMaskTransformerHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.kernels.attention import for_changing_lengths
from mmtokmerge.kernels.plain import is_pointwise
from mmtokmerge.layers import TokenFeatures, ViTLayer
from mmtokmerge.models.heads.token_inputs import key_bias, read_level
from mmtokmerge.registry import MODELS

UNUSED = ("conv_cfg", "norm_cfg", "act_cfg")


@MODELS.register_module()
class SegmenterMaskTransformerHead(StockMaskTransformerHead):
    """mmseg's mask transformer (Segmenter, section 3.2) with the same state dict, on merged tokens.

    The tokens and one embedding of each class go through the decoder's layers together; a token's
    logits are the products of its normalised projection with those of the classes, normalised over
    the classes, and every patch takes its token's (ALGM, section 3.1). Where nothing is merged the
    result is mmseg's. Stochastic depth takes both halves of a layer, in mmseg its MLP alone.

    Takes a tuple of :class:`mmtokmerge.layers.TokenFeatures` or of maps ``(B, C, h, w)``.

    Args:
        in_channels: Channels of the tokens.
        num_layers: Layers of the decoder.
        num_heads: Heads of its attention.
        embed_dims: Channels inside the decoder.
        mlp_ratio: Hidden channels of its MLPs, as a multiple.
        drop_path_rate: Stochastic depth of the last layer, growing linearly from 0.
        drop_rate: Dropout after attention and in the MLPs.
        attn_drop_rate: Dropout of the attention weights.
        qkv_bias: Whether the attention's projections have a bias.
        act_cfg: mmcv's config of the activation; None is GELU.
        norm_cfg: mmcv's config of the norms, of type LN; None is LN.
        proportional: Whether a token weighs in the decoder's attention by the log of the patches
            that it stands for.
        fused: See :func:`mmtokmerge.layers.attend`.
        **kwargs: Arguments of mmseg's ``BaseDecodeHead``, and ``init_std``.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``, or a key is set that this head
            has no use for.
    """

    def __init__(
        self,
        in_channels: int,
        num_layers: int,
        num_heads: int,
        embed_dims: int,
        mlp_ratio: int = 4,
        drop_path_rate: float = 0.1,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        qkv_bias: bool = True,
        act_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] | None = None,
        proportional: bool = False,
        fused: bool = True,
        **kwargs: Any,
    ) -> None:
        act_cfg = dict(act_cfg or dict(type="GELU"))
        norm_cfg = dict(norm_cfg or dict(type="LN"))
        check_heads(num_heads, "embed_dims", embed_dims)
        check_one_level(kwargs)
        if kwargs.pop("num_fcs", 2) != 2:
            raise InputError("decode_head.num_fcs must be 2, the two layers of a ViT's MLP")
        super().__init__(
            in_channels=in_channels,
            num_layers=0,
            num_heads=num_heads,
            embed_dims=embed_dims,
            norm_cfg=norm_cfg,
            **kwargs,
        )
        self.layers = ModuleList(
            ViTLayer(
                embed_dims,
                num_heads,
                mlp_ratio * embed_dims,
                qkv_bias=qkv_bias,
                drop=drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=rate,
                norm_layer=lambda width: build_norm_layer(norm_cfg, width)[1],
                activation=partial(build_activation_layer, act_cfg),
                fused=fused,
            )
            for rate in torch.linspace(0, drop_path_rate, num_layers, device="cpu").tolist()
        )
        self.proportional = proportional

    def forward(self, inputs: Any) -> Tensor:
        """Map one level of ``inputs`` to logits ``(B, num_classes, h, w)``."""
        features = read_level(inputs, self.in_index, self.in_channels)
        rows = self.dec_proj(features.tokens)  # (B, M, D)
        rows = torch.cat((rows, self.cls_emb.to(rows.dtype).expand(len(rows), -1, -1)), 1)
        bias = self._bias(features)
        with for_changing_lengths(rows, features.assignment.counts is not None):
            for layer in self.layers:
                rows = layer(rows, bias)
        rows = self.decoder_norm(rows)
        patches = F.normalize(self.patch_proj(rows[:, : -self.num_classes]), dim=2)
        classes = F.normalize(self.classes_proj(rows[:, -self.num_classes :]), dim=2)
        masks = self.mask_norm(patches @ classes.transpose(1, 2))  # (B, M, num_classes)
        return features.to_map(masks)

    def _bias(self, features: TokenFeatures) -> Tensor | None:
        """``(B or 1, 1, 1, M + num_classes)``: every class embedding weighs as one token."""
        bias = key_bias(features, self.proportional)
        if bias is None:
            return None
        return F.pad(bias, (0, self.num_classes))[:, None, None]


@MODELS.register_module()
class SegmenterLinearHead(BaseDecodeHead):
    """Segmenter's linear decoder (section 3.2): one linear layer on tokens, then every patch its.

    The state dict is that of mmseg's ``FCNHead(num_convs=0, kernel_size=1, concat_input=False)``.
    Takes a tuple of :class:`mmtokmerge.layers.TokenFeatures` or of maps ``(B, C, h, w)``.

    Args:
        in_channels: Channels of the tokens.
        channels: The same; None takes ``in_channels``.
        **kwargs: Arguments of mmseg's ``BaseDecodeHead``.

    Raises:
        ValueError: If ``channels`` differs, or a key is set that this head has no use for.
    """

    def __init__(self, in_channels: int, channels: int | None = None, **kwargs: Any) -> None:
        check_one_level(kwargs)
        if channels not in (None, in_channels):
            raise InputError(
                f"decode_head.channels must be in_channels, {in_channels}, got {channels}"
            )
        for key in UNUSED:
            if kwargs.get(key) is not None:
                raise InputError(f"decode_head.{key} must be left out: one linear layer has none")
        super().__init__(in_channels=in_channels, channels=in_channels, **kwargs)

    def forward(self, inputs: Any) -> Tensor:
        """Map one level of ``inputs`` to logits ``(B, out_channels, h, w)``."""
        features = read_level(inputs, self.in_index, self.in_channels)
        tokens = drop_channels(features.tokens, self.dropout)
        conv = self.conv_seg
        if is_pointwise(conv):
            logits = F.linear(tokens, conv.weight.flatten(1), conv.bias)
        else:
            logits = conv(tokens.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        return features.to_map(logits)  # from (B, M, out_channels)


def drop_channels(tokens: Tensor, dropout: nn.Module | None) -> Tensor:
    """Apply mmseg's dropout of whole channels to tokens ``(B, M, C)``."""
    if dropout is None:
        return tokens
    columns = tokens.transpose(1, 2)[..., None]  # (B, C, M, 1)
    return dropout(columns)[..., 0].transpose(1, 2)


def check_heads(num_heads: int, key: str, width: int) -> None:
    """Refuse heads that do not share the channels evenly.

    Raises:
        ValueError: If ``num_heads`` is not a divisor of ``width``, the value of ``key``.
    """
    if num_heads < 1 or width % num_heads:
        raise InputError(f"decode_head.num_heads={num_heads} must divide {key}={width}")


def check_one_level(kwargs: Mapping[str, Any]) -> None:
    """Refuse settings of mmseg's ``BaseDecodeHead`` that take several levels.

    Raises:
        ValueError: If ``input_transform`` or a list as ``in_index`` is among ``kwargs``.
    """
    transform, index = kwargs.get("input_transform"), kwargs.get("in_index", -1)
    if transform is not None or not isinstance(index, int):
        raise InputError(
            "decode_head takes one level, so in_index must be one number and input_transform None, "
            f"got in_index={index!r} and input_transform={transform!r}"
        )
