"""Mask2Former's head for semantic segmentation, of transformers' modules: no compiled operators."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmtokmerge.checks import number_in, whole_number
from mmtokmerge.errors import InputError
from mmtokmerge.registry import MODELS

LOSSES = ("loss_cross_entropy", "loss_mask", "loss_dice")


class Queries(NamedTuple):
    """What the queries say after a decoder layer.

    Args:
        classes: ``(B, Q, classes + 1)`` logits, the last for no object.
        masks: ``(B, Q, h, w)`` logits, at a quarter of the image.
    """

    classes: Tensor
    masks: Tensor


@MODELS.register_module()
class Mask2FormerHead(BaseDecodeHead):
    """Mask2Former (Cheng et al. 2022) on maps of 1/4, 1/8, 1/16 and 1/32.

    Pixel decoder, decoder of masked attention, Hungarian matching and losses are transformers'. A
    class's score of a pixel is the sum over the queries of their probability of the class times
    their mask's (section 3.3).

    Args:
        in_channels: Channels of the four maps.
        num_classes: Classes.
        channels: Channels of pixel decoder, queries and masks; a multiple of 64 and of the heads.
        num_queries: Queries Q.
        num_heads: Heads of both decoders.
        feedforward_channels: Hidden channels of both decoders' FFNs.
        encoder_layers: Layers of the pixel decoder.
        decoder_layers: Layers of the decoder.
        num_points: Points at which masks are compared; three times as many are looked at, and three
            quarters taken where the prediction is least certain (section 3.2).
        class_weight: Weight of the classes, in matching and loss.
        mask_weight: Weight of the masks' cross-entropy.
        dice_weight: Weight of the masks' Dice loss.
        no_object_weight: Weight of the class of no object within its loss.
        **kwargs: Arguments of mmseg's ``BaseDecodeHead``, but ``loss_decode`` and ``sampler``.

    Raises:
        ImportError: transformers is not installed.
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        in_channels: list[int],
        num_classes: int,
        channels: int = 256,
        num_queries: int = 100,
        num_heads: int = 8,
        feedforward_channels: int = 1024,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        num_points: int = 12544,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if find_spec("transformers") is None:
            raise ImportError("Mask2FormerHead is made of transformers' modules: install it")
        for name in ("loss_decode", "sampler"):
            if kwargs.get(name) is not None:
                raise InputError(
                    f"{name} does nothing in Mask2FormerHead, which has its own losses"
                )
        for name, number in (
            ("num_queries", num_queries),
            ("num_heads", num_heads),
            ("feedforward_channels", feedforward_channels),
            ("encoder_layers", encoder_layers),
            ("decoder_layers", decoder_layers),
            ("num_points", num_points),
        ):
            whole_number(name, number, 1)
        for name, weight in (
            ("class_weight", class_weight),
            ("mask_weight", mask_weight),
            ("dice_weight", dice_weight),
            ("no_object_weight", no_object_weight),
        ):
            number_in(name, weight, 0, 1e6)
        if channels % 64 or channels % num_heads:
            raise InputError(
                f"channels={channels} must be a multiple of 64 and of num_heads={num_heads}"
            )
        kwargs.setdefault("in_index", [0, 1, 2, 3])
        kwargs.setdefault("dropout_ratio", 0)
        kwargs.setdefault("init_cfg", None)
        super().__init__(
            in_channels=in_channels,
            channels=channels,
            num_classes=num_classes,
            input_transform="multiple_select",
            **kwargs,
        )
        del self.conv_seg, self.loss_decode
        from transformers import Mask2FormerConfig
        from transformers.models.mask2former.modeling_mask2former import (
            Mask2FormerLoss,
            Mask2FormerPixelDecoder,
            Mask2FormerTransformerModule,
        )

        weights = dict(zip(LOSSES, (class_weight, mask_weight, dice_weight), strict=True))
        config = Mask2FormerConfig(
            feature_size=channels,
            mask_feature_size=channels,
            hidden_dim=channels,
            encoder_feedforward_dim=feedforward_channels,
            dim_feedforward=feedforward_channels,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers + 1,  # it counts the prediction before the first too
            num_attention_heads=num_heads,
            num_queries=num_queries,
            no_object_weight=no_object_weight,
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            train_num_points=num_points,
            num_labels=num_classes,
        )
        self.pixel_decoder = Mask2FormerPixelDecoder(config, in_channels)
        # made there as torch.Tensor(...), which no default device reaches and nothing fills
        self.pixel_decoder.level_embed = nn.Parameter(torch.zeros(3, channels))
        self.transformer_module = Mask2FormerTransformerModule(channels, config)
        self.class_predictor = nn.Linear(channels, num_classes + 1)
        self.criterion = Mask2FormerLoss(config, weights)
        self.loss_weights = weights
        self.config = config
        self._init_modules()

    def _init_modules(self) -> None:
        """transformers' initialisation, which its models give to each of their modules."""
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerPreTrainedModel

        for module in reversed(list(self.modules())):  # what holds others comes last, as there
            if module is not self:
                Mask2FormerPreTrainedModel._init_weights(self, module)

    def init_weights(self) -> None:
        """By ``init_cfg`` where one was given; else as the modules were when they were made."""
        if self.init_cfg:
            super().init_weights()

    def queries(self, inputs: tuple[Tensor, ...]) -> list[Queries]:
        """What the queries say before the first decoder layer and after each."""
        levels = self._transform_inputs(inputs)
        pixels = self.pixel_decoder(levels)
        decoded = self.transformer_module(pixels.multi_scale_features, pixels.mask_features)
        return [
            Queries(self.class_predictor(state.transpose(0, 1)), masks)
            for state, masks in zip(
                decoded.intermediate_hidden_states, decoded.masks_queries_logits, strict=True
            )
        ]

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Maps to scores ``(B, classes, h, w)`` at a quarter of the image."""
        last = self.queries(inputs)[-1]
        return scores(last.classes, last.masks)

    def loss(
        self, inputs: tuple[Tensor, ...], batch_data_samples: Any, train_cfg: Any
    ) -> dict[str, Tensor]:
        """The losses of every prediction; see transformers' ``Mask2FormerLoss``."""
        labels = [sample.gt_sem_seg.data[0] for sample in batch_data_samples]
        found = self.queries(inputs)
        masks, classes = zip(*(self._targets(each) for each in labels), strict=True)
        losses: dict[str, Tensor] = {}
        for number, each in enumerate(found):
            if not any(len(own) for own in classes):  # nothing but ignored pixels
                return {
                    "loss_cross_entropy": sum(e.classes.sum() + e.masks.sum() for e in found) * 0
                }
            terms = self.criterion(each.masks, each.classes, list(masks), list(classes))
            own = "" if number == len(found) - 1 else f"d{number}."
            losses |= {
                f"{own}{key}": value * self.loss_weights[key] for key, value in terms.items()
            }
        return losses

    def _targets(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """``(K, H, W)`` floats, the mask of each class that an image has, and the K classes."""
        classes = labels.unique()
        classes = classes[(classes != self.ignore_index) & (classes < self.num_classes)]
        return (labels == classes[:, None, None]).float(), classes.long()

    def predict(
        self, inputs: tuple[Tensor, ...], batch_img_metas: list[dict[str, Any]], test_cfg: Any
    ) -> Tensor:
        """Scores ``(B, classes, H, W)`` at the size of the images; masks are resized first."""
        last = self.queries(inputs)[-1]
        meta = batch_img_metas[0]
        size = meta["img_shape"]
        if not isinstance(size, torch.Size):  # a window of mmseg's sliding mode has one
            size = meta.get("pad_shape", size)[:2]
        masks = F.interpolate(last.masks, size, mode="bilinear", align_corners=False)
        return scores(last.classes, masks)


def scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Logits of queries to ``(B, classes, h, w)``: the sum of their probabilities' products."""
    shares = classes.softmax(-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", shares, masks.sigmoid())
