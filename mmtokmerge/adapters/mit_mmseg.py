"""SegFormer's encoder as mmseg builds it, inside any segmentor or pose estimator."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmtokmerge.adapters.base import Replacement
from mmtokmerge.adapters.mit import HostAttention, Kind, Stage, apply_to_stages
from mmtokmerge.adapters.report import Report
from mmtokmerge.kernels.attention import attend
from mmtokmerge.kernels.linear import linear
from mmtokmerge.kernels.plain import has_hooks, is_plain
from mmtokmerge.layers.attention import MergingAttention
from mmtokmerge.layers.layout import to_map, to_tokens
from mmtokmerge.layers.mix_ffn import MixParts

NAME = "SegFormer of mmseg (MixVisionTransformer)"
ENCODERS = ("mmseg.MixVisionTransformer",)


class MMSegAttention(HostAttention):
    """In the place of mmseg's ``EfficientMultiheadAttention``."""

    # The host's signature, not MergingAttention's: the host's layer calls it.
    def forward(  # type: ignore[override]
        self, x: Tensor, hw_shape: tuple[int, int], identity: Tensor | None = None
    ) -> Tensor:
        """As the host's, the residual included."""
        y, _ = MergingAttention.forward(self, x, (hw_shape[0], hw_shape[1]))
        change: Tensor = self.dropout_layer(self.proj_drop(y))
        return (x if identity is None else identity) + change

    def attend(self, q: Tensor, kv: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`MergingAttention`."""
        own: Any = self.attn
        if not is_plain(own, nn.MultiheadAttention):
            return _call(own, q, kv, bias)
        width = q.shape[-1]
        weight_q, weight_kv = own.in_proj_weight.split([width, 2 * width])
        biases = (None, None)
        if own.in_proj_bias is not None:
            biases = own.in_proj_bias.split([width, 2 * width])
        keys, values = linear(kv, weight_kv, biases[1]).chunk(2, dim=-1)
        queries, keys, values = (
            each.unflatten(-1, (own.num_heads, -1)).transpose(1, 2)
            for each in (linear(q, weight_q, biases[0]), keys, values)
        )
        y = attend(queries, keys, values, bias, dropout=self.dropped())
        out: Tensor = own.out_proj(y.transpose(1, 2).flatten(2))
        return out

    def drop_rate(self) -> float:
        """See :class:`HostAttention`."""
        return float(self.attn.dropout)


def _call(own: Any, q: Tensor, kv: Tensor, bias: Tensor | None) -> Tensor:
    """What somebody wrapped or hooked, called as mmseg does, with a bias of the keys."""
    first = bool(own.batch_first)
    q_in, kv_in = (q, kv) if first else (q.transpose(0, 1), kv.transpose(0, 1))
    mask = None
    if bias is not None:
        shape = (len(q), own.num_heads, q.shape[1], kv.shape[1])
        mask = bias.expand(shape).flatten(0, 1)
    out: Tensor = own(q_in, kv_in, kv_in, attn_mask=mask, need_weights=False)[0]
    return out if first else out.transpose(0, 1)


class MMSegMixFFN(Replacement):
    """In the place of mmseg's ``MixFFN``."""

    def forward(
        self, x: Tensor, hw_shape: tuple[int, int], identity: Tensor | None = None
    ) -> Tensor:
        """As the host's, the residual included."""
        layers: Any = self.layers
        parts = MixParts(*layers)
        hw = (hw_shape[0], hw_shape[1])
        if parts.are_plain() and not has_hooks(layers):
            out = parts.feed(x, hw)
        else:
            out = to_tokens(layers(to_map(x, hw)))
        change: Tensor = self.dropout_layer(out)
        return (x if identity is None else identity) + change


KIND = Kind(
    attention="attn",
    mlp="ffn",
    attentions={"mmseg.EfficientMultiheadAttention": MMSegAttention},
    mlps={"mmseg.MixFFN": MMSegMixFFN},
    heads=lambda attention: int(attention.attn.num_heads),
    sr_ratio=lambda attention: int(attention.sr_ratio),
    hidden=lambda mlp: int(mlp.feedforward_channels),
)


def apply_to(encoder: Any, path: str, merging: Any, proportional: bool | None) -> Report:
    """Put merging into mmseg's encoder; see :func:`apply_to_stages`."""
    stages = [
        Stage(f"layers.{index}.1", stage[1], stage[0].projection)
        for index, stage in enumerate(encoder.layers)
    ]
    return apply_to_stages(NAME, KIND, stages, path, merging, proportional)
