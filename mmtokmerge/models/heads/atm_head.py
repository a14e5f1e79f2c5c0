"""SegViT's decoder: class embeddings whose attention to the tokens is the segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import accuracy
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.kernels.attention import for_changing_lengths
from mmtokmerge.layers.token_decoder import AttentionToMask
from mmtokmerge.models.heads.segmenter_head import check_heads
from mmtokmerge.models.heads.token_inputs import key_bias, read_level
from mmtokmerge.models.losses import ATMLoss
from mmtokmerge.registry import MODELS

Level = tuple[Tensor, Tensor]
SELECT = "multiple_select"


@MODELS.register_module()
class ATMHead(BaseDecodeHead):
    """The attention-to-mask decoder of SegViT (NeurIPS 2022, section 3.2) on merged tokens.

    One embedding for each class passes through the levels of the backbone, the last of ``in_index``
    first. In each it attends to the other classes and to the level's tokens; that similarity is its
    mask (:class:`mmtokmerge.layers.token_decoder.AttentionToMask`). The masks of the levels are
    unmerged, each by its own assignment, and added up before the sigmoid. A linear layer says which
    class an embedding stands for, or 'no object'; the segmentation is the sum over embeddings of
    class probability times mask (as in MaskFormer, section 3.4). Every level is supervised, with
    the masks added up so far.

    Takes a tuple of :class:`mmtokmerge.layers.TokenFeatures` or of maps ``(B, C, h, w)``; where
    their grids differ masks are added on the largest.

    Args:
        in_channels: Channels of each level.
        channels: Channels of the embeddings, to which each level is projected.
        num_classes: Classes K.
        num_heads: Heads of the attentions.
        in_index: The levels, from the shallowest to the deepest.
        num_layers: Decoder layers in each level; its masks come from the last.
        mlp_ratio: Hidden channels of the MLPs, as a multiple of ``channels``.
        dropout_ratio: Dropout in the decoder's layers.
        proportional: Whether a token weighs in the attention by the log of the patches that it
            stands for.
        fused: See :func:`mmtokmerge.layers.attend`.
        loss_decode: Config of the loss, of type ``mmtokmerge.ATMLoss``; None takes its defaults.
        **kwargs: ``ignore_index``, ``align_corners`` and ``init_cfg`` of mmseg's
            ``BaseDecodeHead``, and ``input_transform``, which must be 'multiple_select'.

    Raises:
        ValueError: If ``in_channels`` and ``in_index`` are not lists of one length, ``num_heads``
            does not divide ``channels``, the loss is another one, or a key is set that this head
            has no use for.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        num_heads: int,
        in_index: Sequence[int] = (0, 1, 2),
        num_layers: int = 1,
        mlp_ratio: int = 4,
        dropout_ratio: float = 0.1,
        proportional: bool = False,
        fused: bool = True,
        loss_decode: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_settings(in_channels, in_index, num_layers, kwargs)
        check_heads(num_heads, "channels", channels)
        super().__init__(
            in_channels=list(in_channels),
            channels=channels,
            num_classes=num_classes,
            out_channels=num_classes,
            dropout_ratio=dropout_ratio,
            in_index=list(in_index),
            input_transform=SELECT,
            loss_decode=dict(loss_decode or dict(type="mmtokmerge.ATMLoss")),
            init_cfg=kwargs.pop("init_cfg", None),
            **kwargs,
        )
        if not isinstance(self.loss_decode, ATMLoss):
            raise InputError(
                "decode_head.loss_decode must be of type mmtokmerge.ATMLoss, got "
                f"{type(self.loss_decode).__name__}"
            )
        del self.conv_seg, self.dropout  # the layers have their own dropout
        self.proportional = proportional
        self.class_embed = nn.Parameter(torch.empty(1, num_classes, channels))
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(width, channels), nn.LayerNorm(channels))
            for width in in_channels
        )
        self.levels = nn.ModuleList(
            nn.ModuleList(
                AttentionToMask(channels, num_heads, mlp_ratio * channels, dropout_ratio, fused)
                for _ in range(num_layers)
            )
            for _ in in_channels
        )
        self.classify = nn.Linear(channels, num_classes + 1)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.class_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Any) -> Tensor:
        """Class scores ``(B, K, h, w)``, none negative, on the largest grid of the levels."""
        return segment(*self.forward_levels(inputs)[-1])

    def forward_levels(self, inputs: Any) -> list[Level]:
        """Run the cascade.

        Args:
            inputs: A tuple of :class:`mmtokmerge.layers.TokenFeatures` or of maps.

        Returns:
            For each level in the order of the cascade, class logits ``(B, K, K + 1)`` and the mask
            logits ``(B, K, h, w)`` added up so far.
        """
        features = [read_level(inputs, i, c) for i, c in zip(self.in_index, self.in_channels)]
        grid = max((level.hw for level in features), key=lambda hw: hw[0] * hw[1])
        classes = self.class_embed.expand(len(features[0].tokens), -1, -1)
        total: Tensor | None = None
        out = []
        for level, project, layers in [*zip(features, self.projections, self.levels)][::-1]:
            tokens = project(level.tokens)
            bias = key_bias(level, self.proportional)
            with for_changing_lengths(tokens, level.assignment.counts is not None):
                for layer in layers:
                    classes, masks = layer(classes, tokens, bias)
            logits = self._upsample(level.to_map(masks), grid)
            total = logits if total is None else total + logits
            out.append((self.classify(classes), total))
        return out

    def loss(
        self, inputs: Any, batch_data_samples: Sequence[Any], train_cfg: Any = None
    ) -> dict[str, Tensor]:
        """The losses of every level and the accuracy in percent; arguments as for mmseg's heads."""
        return self.loss_by_feat(self.forward_levels(inputs), batch_data_samples)

    def loss_by_feat(
        self, seg_logits: list[Level], batch_data_samples: Sequence[Any]
    ) -> dict[str, Tensor]:
        """The losses of what :meth:`forward_levels` gives, by :class:`ATMLoss`, and ``acc_seg``."""
        label = self._stack_batch_gt(batch_data_samples).squeeze(1)  # (B, H, W)
        losses = self.loss_decode(seg_logits, label, self.ignore_index, self.align_corners)
        with torch.no_grad():
            scores = self._upsample(segment(*seg_logits[-1]), label.shape[1:])
            losses["acc_seg"] = accuracy(scores, label, ignore_index=self.ignore_index)
        return losses

    def predict(
        self, inputs: Any, batch_img_metas: list[dict[str, Any]], test_cfg: Any = None
    ) -> Tensor:
        """Class scores ``(B, K, H, W)`` of the images; arguments as for mmseg's heads.

        The masks are brought to the image's size before the sigmoid, as the losses compare them.
        """
        class_logits, mask_logits = self.forward_levels(inputs)[-1]
        return segment(class_logits, self.predict_by_feat(mask_logits, batch_img_metas))

    def _upsample(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return resize(x, size=tuple(size), mode="bilinear", align_corners=self.align_corners)


def segment(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Class scores of each pixel (MaskFormer, section 3.4).

    Args:
        class_logits: ``(B, Q, K + 1)`` of each embedding, 'no object' last.
        mask_logits: ``(B, Q, H, W)`` of each embedding before the sigmoid.

    Returns:
        ``(B, K, H, W)``, the sum over embeddings of class probability times mask.
    """
    chances = class_logits.float().softmax(dim=-1)[..., :-1]  # (B, Q, K)
    masks = mask_logits.float().sigmoid()
    return (chances.transpose(1, 2) @ masks.flatten(2)).unflatten(2, masks.shape[2:])


def _check_settings(
    in_channels: Any, in_index: Any, num_layers: int, kwargs: dict[str, Any]
) -> None:
    lists = all(isinstance(each, (list, tuple)) and each for each in (in_channels, in_index))
    if not lists or len(in_channels) != len(in_index):
        raise InputError(
            "decode_head.in_channels and in_index must be lists of one length, a number for each "
            f"level, got {in_channels!r} and {in_index!r}"
        )
    if num_layers < 1:
        raise InputError(f"decode_head.num_layers must be at least 1, got {num_layers}")
    transform = kwargs.pop("input_transform", SELECT)
    if transform != SELECT:
        raise InputError(f"decode_head.input_transform must be {SELECT!r}, got {transform!r}")
    allowed = ("ignore_index", "align_corners", "init_cfg")
    for key in kwargs:
        if key not in allowed:
            raise InputError(f"decode_head.{key} is unknown to ATMHead")
