"""A whole network as one module, from images to what a runtime returns: what is exported."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.merging.trace import counting_beyond
from mmtokmerge.models.heatmap_decoding import HeatmapDecoding


class WholeNetwork(nn.Module):
    """A segmentor's or pose estimator's network, without samples and meta information.

    Args:
        model: mmseg's ``EncoderDecoder`` or mmpose's ``TopdownPoseEstimator``.
        normalise: Take RGB images from 0 to 255 and normalise them as the config's preprocessor.
        labels: Return the strongest class of each pixel, int64, instead of logits.
        keypoints: Return keypoints and their scores instead of heatmaps.

    Raises:
        InputError: The model is neither, or what is asked of it is for the other.
    """

    def __init__(
        self,
        model: Any,
        normalise: bool = False,
        labels: bool = False,
        keypoints: bool = False,
    ) -> None:
        super().__init__()
        self.segments = hasattr(model, "decode_head")
        head = model.decode_head if self.segments else getattr(model, "head", None)
        if head is None or isinstance(head, nn.ModuleList):
            raise InputError(
                f"{type(model).__name__} cannot be exported: a whole network is a segmentor with "
                "one decode head, or a top-down pose estimator"
            )
        if labels and not self.segments:
            raise InputError("--labels is for segmentation; a pose network returns heatmaps")
        if keypoints and self.segments:
            raise InputError("--keypoints is for pose; a segmentor returns logits or labels")
        self.backbone = model.backbone
        self.policy = _network_of_policy(getattr(model.backbone, "sharing", None))
        self.neck = model.neck if getattr(model, "with_neck", False) else nn.Identity()
        self.head = head
        self.labels = labels
        self.decoding = HeatmapDecoding(getattr(head, "decoder", None)) if keypoints else None
        self.align_corners = bool(getattr(head, "align_corners", False))
        self.threshold = getattr(head, "threshold", None)
        preprocessor = model.data_preprocessor
        mean, std = read_normalisation(preprocessor) if normalise else (None, None)
        self.takes_bgr = normalise and not converts_channels(preprocessor)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images ``(B, 3, H, W)`` to logits ``(B, classes, H, W)``, labels or heatmaps.

        With ``keypoints`` to keypoints ``(B, K, 2)`` in pixels of the images and scores ``(B, K)``.
        Where a reducer has ``max_tokens``, also ``(B,)`` fp32, how many tokens of each image merged
        beyond their threshold to come down to it.
        """
        with counting_beyond() as beyond:
            out = self._predict(images)
        if self.decoding is not None:
            decoded: tuple[Tensor, Tensor] = self.decoding(out)
            return decoded
        return (out, torch.stack(beyond).sum(0).float()) if beyond else out

    def _predict(self, images: Tensor) -> Tensor:
        x = images.flip(1) if self.takes_bgr else images
        if self.mean is not None:
            x = (x - self.mean) / self.std
        out: Tensor = self.head(self.neck(self.backbone(x)))
        if not self.segments:
            return out
        out = F.interpolate(
            out, size=images.shape[2:], mode="bilinear", align_corners=self.align_corners
        )
        return self.labels_of(out) if self.labels else out

    def labels_of(self, logits: Tensor) -> Tensor:
        """Label maps ``(B, H, W)`` int64 of logits ``(B, C, H, W)``, as mmseg makes them."""
        if logits.shape[1] == 1:  # one channel for two classes
            return (logits[:, 0].sigmoid() > (self.threshold or 0.5)).long()
        return logits.argmax(1)


def _network_of_policy(sharing: Any) -> nn.Module | None:
    """The frozen network that decides which patches share, which becomes part of the graph.

    Raises:
        InputError: As many patches share as an image allows, or not by a network.
    """
    if sharing is None:
        return None
    if sharing.threshold is not None:
        raise InputError(
            "patches that share by sharing.threshold are as many as an image allows, and have no "
            "graph that holds for the next image: take sharing.num_shared"
        )
    policy = sharing.policy
    network = getattr(policy, "network", None)
    if not hasattr(getattr(network, "model", None), "scores") or policy.observes:
        raise InputError(
            f"a ViT that shares patches by {type(policy).__name__} cannot be exported: only "
            "NetworkPolicy decides by the image and a network that scores superpatches"
        )
    policy.check()
    found: nn.Module = network.model
    return found


def converts_channels(preprocessor: Any) -> bool:
    """Whether a data preprocessor turns the loader's BGR into RGB, of mmseg or mmpose."""
    names = ("channel_conversion", "_channel_conversion")
    return any(bool(getattr(preprocessor, name, False)) for name in names)


def read_normalisation(preprocessor: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``(1, 3, 1, 1)`` of a data preprocessor, of RGB.

    Raises:
        InputError: It normalises nothing.
    """
    mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
    if mean is None or std is None:
        raise InputError("the config's data_preprocessor has no mean and std to normalise by")
    numbers = [torch.as_tensor(each).detach().float().reshape(1, -1, 1, 1) for each in (mean, std)]
    return numbers[0], numbers[1]
