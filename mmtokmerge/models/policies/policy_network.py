"""The policy network of CTS: which superpatches hold a single class, without naming it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import normal_init
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmtokmerge.checks import boolean
from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.imagenet import load_imagenet
from mmtokmerge.registry import MODELS

SHARE = 1


@MODELS.register_module()
class PolicyNetwork(BaseSegmentor):
    """A light network that scores superpatches (CTS, section 3.3); trained by itself.

    A backbone, a 1x1 convolution on one of its maps to two logits, "do not share" and "share", and
    cross-entropy on the labels of :class:`mmtokmerge.GenerateSharingTargets`. Where the map is not
    one cell a superpatch, the logits are resized to the superpatches.

    Args:
        backbone: Config of a backbone that returns a sequence of maps.
        in_channels: Channels of the map.
        in_index: Which of the backbone's maps.
        cell: Side of a superpatch in pixels.
        ignore_index: Label that takes no part in the loss.
        data_preprocessor: mmseg's; its mean and std are the network's own normalisation, in which
            a segmentation network that uses the policy feeds it too.
        pretrained: Begin training from timm's ImageNet weights of the backbone, a
            ``TIMMBackbone``, as the paper does. Acts in :meth:`init_weights` alone: a network that
            is loaded from a checkpoint fetches nothing.
        init_cfg: MMEngine's initialisation.
        train_cfg: Unused; configs of mmseg's models carry it.
        test_cfg: Unused; configs of mmseg's models carry it.

    Raises:
        TypeError: If ``pretrained`` is not True or False.
        ValueError: If the backbone's map has not ``in_channels`` channels, at the first forward; or
            ImageNet's weights are asked for where there are none or they cannot be fetched.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        in_channels: int = 320,
        in_index: int = -1,
        cell: int = 32,
        ignore_index: int = 255,
        data_preprocessor: Mapping[str, Any] | None = None,
        pretrained: bool = False,
        init_cfg: Any = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        boolean("pretrained", pretrained)
        self.pretrained = pretrained
        self.name = backbone.get("model_name")
        self.backbone = MODELS.build(dict(backbone))
        self.in_index = in_index
        self.cell = cell
        self.ignore_index = ignore_index
        self.classifier = nn.Conv2d(in_channels, 2, 1)

    def init_weights(self) -> None:
        """Initialise the backbone by its own rules, the classifier as mmseg does ``conv_seg``."""
        super().init_weights()
        if self.pretrained:
            load_imagenet(getattr(self.backbone, "timm_model", None), self.name)
        normal_init(self.classifier, mean=0, std=0.01)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """The map of ``inputs (B, 3, H, W)`` that is classified."""
        features = self.backbone(inputs)[self.in_index]
        if features.shape[1] != self.classifier.in_channels:
            raise InputError(
                f"in_channels={self.classifier.in_channels}, but map in_index={self.in_index} of "
                f"the policy's backbone has {features.shape[1]} channels"
            )
        return features

    def encode_decode(self, inputs: Tensor, batch_data_samples: Any = None) -> Tensor:
        """Logits ``(B, 2, ceil(H / cell), ceil(W / cell))`` of images ``(B, 3, H, W)``."""
        logits = self.classifier(self.extract_feat(inputs))
        cells = [-(-side // self.cell) for side in inputs.shape[2:]]
        if list(logits.shape[2:]) != cells:
            logits = F.interpolate(logits, cells, mode="bilinear", align_corners=False)
        return logits

    def scores(self, inputs: Tensor) -> Tensor:
        """Probability ``(B, ceil(H / cell), ceil(W / cell))`` that a superpatch may share."""
        return self.encode_decode(inputs).float().softmax(dim=1)[:, SHARE]

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Cross-entropy over the superpatches that are not ignored, and their accuracy in %."""
        logits = self.encode_decode(inputs)
        labels = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])
        if labels.shape[1:] != logits.shape[2:]:
            raise InputError(
                f"labels are {labels.shape[1]}x{labels.shape[2]}, but images of "
                f"{inputs.shape[2]}x{inputs.shape[3]} have {logits.shape[2]}x{logits.shape[3]} "
                "superpatches: the train pipeline needs mmtokmerge.GenerateSharingTargets after "
                "its crop and Pad, with patch_size * superpatch equal to the policy's cell"
            )
        labels = labels.long()
        counted = labels != self.ignore_index
        total = counted.sum().clamp(min=1)
        entropy = F.cross_entropy(
            logits.float(), labels, ignore_index=self.ignore_index, reduction="sum"
        )
        right = ((logits.argmax(1) == labels) & counted).sum()
        return {"loss_policy": entropy / total, "acc_policy": right * 100.0 / total}

    def predict(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Sequence[Any]:
        """Add ``sharing_scores (1, Hs, Ws)``, the probability to share, to each sample."""
        scores = self.scores(inputs)
        if data_samples is None:
            data_samples = [SegDataSample() for _ in scores]
        for sample, of_image in zip(data_samples, scores):
            sample.sharing_scores = PixelData(data=of_image[None])
        return data_samples

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        return self.encode_decode(inputs)
