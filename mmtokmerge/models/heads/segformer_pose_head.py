"""SegFormer's head for keypoint heatmaps, fused at each scale's own resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmpose.models.heads import HeatmapHead
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.models.heads.fusion_conv import fuse
from mmtokmerge.registry import MODELS


@MODELS.register_module()
class SegformerPoseHead(HeatmapHead):
    """Heatmaps from four scales (Segformer++, section IV-D); losses and decoding are mmpose's.

    Each scale goes through a 1x1 convolution with norm and ReLU, is upsampled to the first one's
    size and concatenated; a 1x1 convolution with norm and ReLU fuses them, and a last one gives the
    heatmaps. See :func:`mmtokmerge.layers.fusion.fuse_scales` for why acting at each scale's
    own resolution approximates nothing.

    Args:
        in_channels: Channels of each scale, the finest first.
        out_channels: Keypoints K.
        channels: Channels that each scale and the fusion are mapped to.
        norm_cfg: mmcv's config of the norms; None is BatchNorm.
        align_corners: Whether bilinear upsampling aligns corners.
        loss: Config of mmpose's heatmap loss; None is the mean squared error with target weights.
        decoder: Config of mmpose's codec, which decodes the heatmaps.
        init_cfg: MMEngine's initialisation.

    Raises:
        ValueError: If ``in_channels`` is not a list of at least one number, or ``out_channels`` is
            not positive; while running, if samples have another number of keypoints.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        channels: int = 256,
        norm_cfg: Mapping[str, Any] | None = None,
        align_corners: bool = False,
        loss: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        if isinstance(in_channels, int) or not in_channels:
            raise InputError(
                f"head.in_channels must list the channels of each scale, got {in_channels!r}"
            )
        if not isinstance(out_channels, int) or out_channels < 1:
            raise InputError(
                f"head.out_channels must be the number of keypoints, got {out_channels!r}"
            )
        super().__init__(
            channels,
            out_channels,
            deconv_out_channels=None,
            loss=dict(loss or dict(type="KeypointMSELoss", use_target_weight=True)),
            decoder=decoder,
            init_cfg=init_cfg,
        )
        self.in_channels = tuple(in_channels)
        self.align_corners = align_corners
        norm = dict(norm_cfg or dict(type="BN"))
        self.convs = nn.ModuleList(
            ConvModule(width, channels, 1, norm_cfg=norm) for width in in_channels
        )
        self.fusion_conv = ConvModule(channels * len(in_channels), channels, 1, norm_cfg=norm)

    @property
    def default_init_cfg(self) -> dict[str, Any]:
        """mmpose's narrow start for the last layer; mmcv's own for those followed by a norm."""
        return dict(type="Normal", override=dict(name="final_layer", type="Normal", std=0.001))

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Map scales ``(B, C_i, h_i, w_i)`` to float32 heatmaps ``(B, K, h_0, w_0)``."""
        if len(feats) != len(self.convs):
            raise InputError(
                f"the backbone gives {len(feats)} scales, but head.in_channels lists "
                f"{len(self.convs)}"
            )
        maps = [conv(x) for conv, x in zip(self.convs, feats)]
        fused = fuse(self.fusion_conv, maps, align_corners=self.align_corners)
        heatmaps = self.final_layer(fused)
        return heatmaps.float()  # mmpose's decoding and accuracy take no bfloat16

    def loss(
        self,
        feats: Sequence[Tensor],
        batch_data_samples: Sequence[Any],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """mmpose's losses; arguments as for its heads."""
        for sample in batch_data_samples:
            self._check_keypoints(sample, len(sample.gt_fields.heatmaps))
        return super().loss(feats, batch_data_samples, train_cfg or {})

    def predict(
        self,
        feats: Any,
        batch_data_samples: Sequence[Any],
        test_cfg: Mapping[str, Any] | None = None,
    ) -> Any:
        """mmpose's predictions; arguments as for its heads."""
        test_cfg = test_cfg or {}
        # A head of several data sets' keypoints gives those of one by output_keypoint_indices.
        picks = test_cfg.get("output_keypoint_indices") is not None
        if test_cfg.get("flip_test") or not picks:
            combined = getattr(self.decoder, "heatmap_type", None) == "combined"
            each = 3 if combined else 1  # UDP's combined heatmaps: a score and two offsets
            for sample in batch_data_samples:
                if "flip_indices" in sample.metainfo:
                    self._check_keypoints(sample, each * len(sample.metainfo["flip_indices"]), each)
        return super().predict(feats, batch_data_samples, test_cfg)

    def _check_keypoints(self, sample: Any, number: int, each: int = 1) -> None:
        if number != self.out_channels:
            what = "keypoints" if each == 1 else f"channels, {each} for each keypoint"
            raise InputError(
                f"head.out_channels is {self.out_channels}, but the samples have {number} "
                f"{what} (image {sample.get('img_path', 'unknown')})"
            )
