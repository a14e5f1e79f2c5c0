"""An exported file in a top-down pose estimator's place, for evaluators, pictures and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from mmpose.models.heads import HeatmapHead
from mmpose.models.pose_estimators import TopdownPoseEstimator
from mmpose.registry import KEYPOINT_CODECS
from torch import Tensor

from mmtokmerge.deploy import load_exported
from mmtokmerge.errors import InputError
from mmtokmerge.registry import MODELS


@MODELS.register_module()
class ExportedPoseEstimator(TopdownPoseEstimator):
    """Predicts keypoints with a file of ``mmtokmerge export``, flipped too as the config tests.

    Args:
        file: ``*.onnx``, ``*.xml`` or ``*.pt2`` that returns heatmaps of normalised images.
        data_preprocessor: The preprocessor of the network that was exported.
        decoder: Config of mmpose's codec that decodes the heatmaps.
        test_cfg: The test settings of the network that was exported.
        metainfo: See mmpose's ``TopdownPoseEstimator``.
        compute: See :func:`mmtokmerge.deploy.load_exported`.

    Raises:
        InputError: There is no such file, or it does not return heatmaps of normalised images.
    """

    def __init__(
        self,
        file: str,
        data_preprocessor: Mapping[str, Any],
        decoder: Mapping[str, Any] | None,
        test_cfg: Mapping[str, Any] | None = None,
        metainfo: Mapping[str, Any] | None = None,
        compute: str = "fp32",
    ) -> None:
        BaseModule.__init__(self)
        self.exported = load_exported(file, compute=compute)
        told = self.exported.metadata
        if told.get("task") != "pose":
            raise InputError(f"{file} was not exported from a pose estimator by mmtokmerge export")
        if told.get("keypoints") or told.get("normalise"):
            raise InputError(
                f"{file} was exported with --keypoints or --normalise: the tools need heatmaps of "
                "normalised images, export it without"
            )
        self.data_preprocessor = MODELS.build(dict(data_preprocessor))
        self.head = _Heatmaps(decoder)
        self.test_cfg = dict(test_cfg or {})
        self.train_cfg: dict[str, Any] = {}
        self.metainfo = metainfo

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Heatmaps ``(B, K, h, w)`` of normalised images."""
        return self.exported(inputs)[0].to(inputs.device)


class _Heatmaps(HeatmapHead):
    """mmpose's head without a network: what it is given are heatmaps already."""

    def __init__(self, decoder: Mapping[str, Any] | None) -> None:
        BaseModule.__init__(self)
        self.decoder = None if decoder is None else KEYPOINT_CODECS.build(dict(decoder))

    def forward(self, feats: Tensor) -> Tensor:
        return feats
