"""SegFormer's encoder as transformers builds it, in versions 4 and 5, and GLPN's, which is one."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor

from mmtokmerge.adapters.base import kind_of
from mmtokmerge.adapters.mit import HostAttention, HostMixFFN, Kind, Stage, apply_to_stages
from mmtokmerge.adapters.report import Report
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.plain import has_hooks, is_patched
from mmtokmerge.layers.attention import MergingAttention
from mmtokmerge.layers.mix_ffn import MixParts

NAMES = {
    "transformers.SegformerEncoder": "SegFormer of transformers 4",
    "transformers.GLPNEncoder": "GLPN of transformers",
    "transformers.SegformerModel": "SegFormer of transformers 5",
}


class NestedAttention(HostAttention):
    """In the place of ``SegformerAttention`` of version 4, and of GLPN's."""

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
        layers = (own.query, own.key, own.value)
        y = self.attend_by(q, kv, bias, layers, own.num_attention_heads)
        output: Any = self.output
        out: Tensor = output(y, q)
        return out

    def reduce(self, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """See :class:`MergingAttention`."""
        own: Any = self.self
        return self.reduce_by(x, hw, own.sr_ratio, lambda: (own.sr, own.layer_norm))

    def drop_rate(self) -> float:
        """See :class:`HostAttention`."""
        own: Any = self.self
        return float(own.dropout.p)


class FlatAttention(HostAttention):
    """In the place of ``SegformerAttention`` of version 5."""

    # The host's signature, not MergingAttention's: the host's layer calls it.
    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, height: int, width: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """As the host's, without attention weights."""
        refuse_attentions(kwargs.get("output_attentions") or records_attentions())
        if args or kwargs.get("attention_mask") is not None:
            raise InputError("attention_mask cannot be given while merging is applied to SegFormer")
        return MergingAttention.forward(self, hidden_states, (height, width))[0], None

    def attend(self, q: Tensor, kv: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`MergingAttention`."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        y = self.attend_by(q, kv, bias, layers, int(self.num_attention_heads))
        projection: Any = self.o_proj
        out: Tensor = projection(y)
        return out

    def reduce(self, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """See :class:`MergingAttention`."""
        ratio = int(self.sequence_reduction_ratio)
        own: Any = self.sequence_reduction if ratio > 1 else None
        if ratio > 1 and (has_hooks(own) or is_patched(own)):
            return own(x, *hw), (hw[0] // ratio, hw[1] // ratio)
        return self.reduce_by(x, hw, ratio, lambda: (own.sequence_reduction, own.layer_norm))

    def drop_rate(self) -> float:
        """See :class:`HostAttention`."""
        return float(self.attention_dropout)


class MixMLP(HostMixFFN):
    """In the place of ``SegformerMixFFN``, ``SegformerMixMLP`` and GLPN's."""

    def parts(self) -> MixParts:
        """See :class:`HostMixFFN`."""
        names = ("fc1", "activation_fn", "fc2")
        if not hasattr(self, "fc1"):
            names = ("dense1", "intermediate_act_fn", "dense2")
        fc1, activation, fc2 = (getattr(self, name) for name in names)
        return MixParts(fc1, self.dwconv.dwconv, activation, self.dropout, fc2, self.dropout)


KINDS = {
    "transformers.SegformerModel": Kind(
        attention="attention",
        mlp="mlp",
        attentions={"transformers.SegformerAttention": FlatAttention},
        mlps={"transformers.SegformerMixMLP": MixMLP},
        heads=lambda attention: int(attention.num_attention_heads),
        sr_ratio=lambda attention: int(attention.sequence_reduction_ratio),
        hidden=lambda mlp: int(mlp.fc1.out_features),
    ),
    **{
        f"transformers.{name}Encoder": Kind(
            attention="attention",
            mlp="mlp",
            attentions={f"transformers.{name}Attention": NestedAttention},
            mlps={f"transformers.{name}MixFFN": MixMLP},
            heads=lambda attention: int(attention.self.num_attention_heads),
            sr_ratio=lambda attention: int(attention.self.sr_ratio),
            hidden=lambda mlp: int(mlp.dense1.out_features),
        )
        for name in ("Segformer", "GLPN")
    },
}


def apply_to(encoder: Any, path: str, merging: Any, proportional: bool | None) -> Report:
    """Put merging into transformers' encoder; see :func:`apply_to_stages`."""
    name = kind_of(encoder)
    if hasattr(encoder, "stages"):  # version 5
        stages = [
            Stage(f"stages.{index}.blocks", stage.blocks, stage.patch_embeddings.proj)
            for index, stage in enumerate(encoder.stages)
        ]
    else:
        stages = [
            Stage(f"block.{index}", layers, patches.proj)
            for index, (layers, patches) in enumerate(zip(encoder.block, encoder.patch_embeddings))
        ]
    return apply_to_stages(NAMES[name], KINDS[name], stages, path, merging, proportional)


def is_encoder(module: Any) -> bool:
    """Whether the module is one of :data:`NAMES`; version 4's SegformerModel only holds one."""
    name = kind_of(module)
    return name in NAMES and (name != "transformers.SegformerModel" or hasattr(module, "stages"))


def refuse_attentions(wanted: Any) -> None:
    """Raise InputError where a caller asks for attention weights, which merging cannot give."""
    if wanted:
        raise InputError(
            "output_attentions=True cannot be given while merging is applied: weights of merged "
            "tokens are none of the host's; mmtokmerge.remove(model) first"
        )


def records_attentions() -> bool:
    """Whether transformers 5, which takes outputs by hooks, collects attention weights now."""
    capturing: Any = sys.modules.get("transformers.utils.output_capturing")
    collector = getattr(capturing, "_active_collector", None)
    collected = None if collector is None else collector.get()
    return collected is not None and "attentions" in collected
