"""SegFormer's encoder as transformers 4 and mmseg build it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmtokmerge.adapters.base import HostModule, LayerChange, Report, refuse_attentions
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.attention import attend
from mmtokmerge.kernels.linear import linear
from mmtokmerge.kernels.plain import call_linear, has_hooks
from mmtokmerge.layers.attention import MergingAttention, reduce_grid
from mmtokmerge.layers.layout import to_map, to_tokens
from mmtokmerge.layers.mix_ffn import MixParts
from mmtokmerge.merging import StageMerging, read_merging

STRIDES = (4, 8, 16, 32)


class HuggingFaceAttention(HostModule, MergingAttention):
    """In the place of transformers' ``SegformerAttention``."""

    def __init__(self, host: Any, merging: StageMerging) -> None:
        super().__init__(host)
        self.merging = merging

    # The host's signature, not MergingAttention's: the host's layer calls it.
    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, height: int, width: int, output_attentions: bool = False
    ) -> tuple[Tensor]:
        """As the host's, without attention weights."""
        refuse_attentions(output_attentions)
        return (MergingAttention.forward(self, hidden_states, (height, width))[0],)

    def attend(self, q: Tensor, kv: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`MergingAttention`."""
        own: Any = self.self
        heads = own.num_attention_heads
        queries, keys, values = (
            call_linear(layer, x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for layer, x in ((own.query, q), (own.key, kv), (own.value, kv))
        )
        dropout = own.dropout.p if self.training else 0.0
        y = attend(queries, keys, values, bias, dropout=dropout)
        out: Tensor = self.output(y.transpose(1, 2).flatten(2), q)
        return out

    def reduce(self, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """See :class:`MergingAttention`."""
        own: Any = self.self
        if own.sr_ratio == 1:
            return x, hw
        merges = self.merging.kv is not None
        return reduce_grid(x, hw, own.sr, own.layer_norm, own.sr_ratio, merges)


class HuggingFaceMixFFN(HostModule):
    """In the place of transformers' ``SegformerMixFFN``: its products on channels-last memory."""

    def forward(self, hidden_states: Tensor, height: int, width: int) -> Tensor:
        """As the host's."""
        parts = MixParts(
            self.dense1,
            self.dwconv.dwconv,
            self.intermediate_act_fn,
            self.dropout,
            self.dense2,
            self.dropout,
        )
        if parts.are_plain() and not has_hooks(self.dwconv):
            return parts.feed(hidden_states, (height, width))
        (host,) = self._host
        out: Tensor = type(host).forward(self, hidden_states, height, width)
        return out


class MMSegAttention(HostModule, MergingAttention):
    """In the place of mmseg's ``EfficientMultiheadAttention``."""

    def __init__(self, host: Any, merging: StageMerging) -> None:
        super().__init__(host)
        self.merging = merging
        self.sr_ratio: int = host.sr_ratio

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
        dropout = own.dropout if self.training else 0.0
        y = attend(queries, keys, values, bias, dropout=dropout)
        out: Tensor = own.out_proj(y.transpose(1, 2).flatten(2))
        return out

    def reduce(self, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """See :class:`MergingAttention`."""
        if self.sr_ratio == 1:
            return x, hw
        merges = self.merging.kv is not None
        return reduce_grid(x, hw, self.sr, self.norm, self.sr_ratio, merges)


class MMSegMixFFN(HostModule):
    """In the place of mmseg's ``MixFFN``."""

    def forward(
        self, x: Tensor, hw_shape: tuple[int, int], identity: Tensor | None = None
    ) -> Tensor:
        """As the host's, the residual included."""
        parts = MixParts(*self.layers)
        hw = (hw_shape[0], hw_shape[1])
        if parts.are_plain() and not has_hooks(self.layers):
            out = parts.feed(x, hw)
        else:
            out = to_tokens(self.layers(to_map(x, hw)))
        change: Tensor = self.dropout_layer(out)
        return (x if identity is None else identity) + change


def is_host(module: nn.Module) -> bool:
    """Whether a module is a SegFormer encoder that this adapter knows."""
    return _kind(module) in ("SegformerEncoder", "MixVisionTransformer")


def apply_to(
    model: nn.Module, encoder: Any, path: str, merging: Any, proportional: bool | None
) -> Report:
    """Put merging into one encoder.

    Args:
        model: What holds it.
        encoder: A module of :func:`is_host`.
        path: Its dotted name.
        merging: A preset's name or four stage dicts, see :func:`mmtokmerge.merging.read_merging`.
        proportional: As there.

    Raises:
        InputError: The encoder's parts are of a version that is not known, or a setting is wrong.
    """
    stages = read_merging(merging, proportional)
    if any(stage.reuse > 1 for stage in stages):
        raise InputError("merging: reuse is for mmtokmerge.MiTPlusPlus, not for a host's encoder")
    hugging_face = _kind(encoder) == "SegformerEncoder"
    name = "SegFormer of transformers 4" if hugging_face else "SegFormer of mmseg"
    report = Report(name, merging)
    blocks = encoder.block if hugging_face else [stage[1] for stage in encoder.layers]
    start = f"{path}." if path else ""
    for index, (layers, stage) in enumerate(zip(blocks, stages)):
        for number, layer in enumerate(layers):
            place = f"block.{index}.{number}" if hugging_face else f"layers.{index}.1.{number}"
            changed = (_change_hugging_face if hugging_face else _change_mmseg)(layer, stage)
            if isinstance(changed, str):
                report.left_alone.append((start + place, changed))
            else:
                report.layers.append(
                    LayerChange(start + place, index + 1, STRIDES[index], changed, stage)
                )
    if not report.layers:
        reasons = sorted({why for _, why in report.left_alone})
        raise InputError(f"nothing of {name} could be changed: {'; '.join(reasons)}")
    return report


def _change_hugging_face(layer: Any, stage: StageMerging) -> int | str:
    """Change a layer and return its reduction, or the reason why it is left alone."""
    attention: Any = getattr(layer, "attention", None)
    mlp: Any = getattr(layer, "mlp", None)
    if _kind(attention) != "SegformerAttention" or _kind(mlp) != "SegformerMixFFN":
        return "its attention or MLP is not that of transformers 4"
    if any(has_hooks(module) for module in (attention, attention.self, mlp)):
        return "somebody's hooks are on it"
    layer.attention = HuggingFaceAttention(attention, stage)
    layer.mlp = HuggingFaceMixFFN(mlp)
    return int(attention.self.sr_ratio)


def _change_mmseg(layer: Any, stage: StageMerging) -> int | str:
    attention: Any = getattr(layer, "attn", None)
    ffn: Any = getattr(layer, "ffn", None)
    if _kind(attention) != "EfficientMultiheadAttention" or _kind(ffn) != "MixFFN":
        return "its attention or MixFFN is not mmseg's"
    if any(has_hooks(module) for module in (attention, attention.attn, ffn)):
        return "somebody's hooks are on it"
    layer.attn = MMSegAttention(attention, stage)
    layer.ffn = MMSegMixFFN(ffn)
    return int(attention.sr_ratio)


def _kind(module: Any) -> str:
    """A class's name, if its package is one of the hosts; '' of all others."""
    package = type(module).__module__.split(".")[0]
    return type(module).__name__ if package in ("transformers", "mmseg", "mmpretrain") else ""
