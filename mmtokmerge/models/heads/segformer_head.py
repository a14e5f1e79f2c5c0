"""SegFormer's all-MLP head, fused at each scale's own resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import SegformerHead as StockSegformerHead
from torch import Tensor, nn

from mmtokmerge.checks import one_of
from mmtokmerge.models.heads.fusion_conv import fuse
from mmtokmerge.registry import MODELS

PROJECTIONS = ("conv", "linear")
INTERPOLATE_MODES = ("bilinear", "nearest")


@MODELS.register_module()
class SegformerHead(StockSegformerHead):
    """mmseg's ``SegformerHead`` with the same state dict and result, computed cheaper.

    See :func:`mmtokmerge.layers.fusion.fuse_scales` for why nothing is approximated.

    Args:
        projection: What maps each scale to ``channels``: 'conv', a 1x1 convolution with norm and
            activation as in mmseg, or 'linear', a 1x1 convolution with bias alone as in the
            original SegFormer, whose published weights need it.
        interpolate_mode: 'bilinear' or 'nearest'.
        **kwargs: Arguments of mmseg's ``BaseDecodeHead``.

    Raises:
        ValueError: If ``projection`` or ``interpolate_mode`` is unknown.
    """

    def __init__(
        self, projection: str = "conv", interpolate_mode: str = "bilinear", **kwargs: Any
    ) -> None:
        one_of("projection", projection, PROJECTIONS)
        one_of("interpolate_mode", interpolate_mode, INTERPOLATE_MODES)
        super().__init__(interpolate_mode=interpolate_mode, **kwargs)
        if projection == "linear":
            self.convs = nn.ModuleList(
                ConvModule(channels, self.channels, 1, act_cfg=None)
                for channels in self.in_channels
            )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Map four maps ``(B, C_i, h_i, w_i)`` to logits ``(B, num_classes, h_0, w_0)``."""
        maps = [conv(x) for conv, x in zip(self.convs, self._transform_inputs(inputs))]
        return self.cls_seg(fuse(self.fusion_conv, maps, self.interpolate_mode, self.align_corners))
