"""SegFormer's encoder as segmentation_models_pytorch builds it, under any of its decoders."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmtokmerge.adapters.mit import HostAttention, HostMixFFN, Kind, Stage, apply_to_stages
from mmtokmerge.adapters.report import Report
from mmtokmerge.kernels.attention import attend
from mmtokmerge.kernels.plain import call_linear
from mmtokmerge.layers.attention import MergingAttention
from mmtokmerge.layers.mix_ffn import MixParts

NAME = "SegFormer of segmentation_models_pytorch (mit_b0 to mit_b5)"
ENCODERS = ("segmentation_models_pytorch.MixVisionTransformerEncoder",)


class SMPAttention(HostAttention):
    """In the place of the encoder's ``Attention``."""

    # The host's signature, not MergingAttention's: the host's block calls it.
    def forward(self, x: Tensor, height: int, width: int) -> Tensor:  # type: ignore[override]
        """As the host's."""
        out: Tensor = self.proj_drop(MergingAttention.forward(self, x, (height, width))[0])
        return out

    def attend(self, q: Tensor, kv: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`MergingAttention`."""
        keys, values = call_linear(self.kv, kv).chunk(2, dim=-1)
        queries, keys, values = (
            each.unflatten(-1, (int(self.num_heads), -1)).transpose(1, 2)
            for each in (call_linear(self.q, q), keys, values)
        )
        width = queries.shape[-1]
        if self.scale != width**-0.5:
            queries = queries * (float(self.scale) * width**0.5)
        y = attend(queries, keys, values, bias, dropout=self.dropped())
        out: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return out

    def drop_rate(self) -> float:
        """See :class:`HostAttention`."""
        return float(self.attn_drop.p)


class SMPMixFFN(HostMixFFN):
    """In the place of the encoder's ``Mlp``."""

    def parts(self) -> MixParts:
        """See :class:`HostMixFFN`."""
        return MixParts(self.fc1, self.dwconv.dwconv, self.act, self.drop, self.fc2, self.drop)


KIND = Kind(
    attention="attn",
    mlp="mlp",
    attentions={"segmentation_models_pytorch.Attention": SMPAttention},
    mlps={"segmentation_models_pytorch.Mlp": SMPMixFFN},
    heads=lambda attention: int(attention.num_heads),
    sr_ratio=lambda attention: int(attention.sr_ratio),
    hidden=lambda mlp: int(mlp.fc1.out_features),
)


def apply_to(encoder: Any, path: str, merging: Any, proportional: bool | None) -> Report:
    """Put merging into the encoder; see :func:`apply_to_stages`."""
    stages = [
        Stage(
            f"block{number}",
            getattr(encoder, f"block{number}"),
            getattr(encoder, f"patch_embed{number}").proj,
        )
        for number in range(1, 5)
    ]
    return apply_to_stages(NAME, KIND, stages, path, merging, proportional)
