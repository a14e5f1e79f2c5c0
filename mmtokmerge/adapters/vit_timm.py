"""timm's VisionTransformer (ViT, DeiT, DINOv2) and its RoPE ViTs (EVA-02, DINOv3)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmtokmerge.adapters.vit import (
    AttentionInputs,
    Encoder,
    ReducingAttention,
    ReducingLayer,
    Rotation,
    merged_rotation,
)
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.plain import call_linear
from mmtokmerge.layers.token_reduction import TokenReduction

NAME = "plain ViT of timm"
ENCODERS = ("VisionTransformer", "Eva")


class TimmAttention(ReducingAttention):
    """In the place of timm's ``Attention``, ``AttentionRope`` and ``EvaAttention``."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the host's: ``(B, N, C)``."""
        inputs: AttentionInputs | None = kwargs.pop("inputs", None)
        rope = kwargs.get("rope")
        others = [*args, *(value for name, value in kwargs.items() if name != "rope")]
        if any(value is not None and value is not False for value in others):
            if inputs is not None:
                raise InputError("attn_mask and is_causal do not go with merging")
            called: Tensor = self.host_forward(x, *args, **kwargs)
            return called
        q, k, v = self._project(x)
        y = self.attend_heads(
            self.q_norm(q),
            self.k_norm(k),
            v,
            AttentionInputs() if inputs is None else inputs,
            float(self.attn_drop.p),
            None if rope is None else self._rotation(rope),
        )
        norm, gate = getattr(self, "norm", None), getattr(self, "gate", None)
        y = y if norm is None else norm(y)
        y = y if gate is None else y * gate(x).sigmoid()
        out: Tensor = self.proj_drop(call_linear(self.proj, y))
        return out

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``(B, heads, N, d)``."""
        heads = int(self.num_heads)
        fused = getattr(self, "qkv", None)
        if fused is None:
            groups = int(getattr(self, "num_kv_heads", heads))
            q, k, v = (
                call_linear(layer, x).unflatten(-1, (number, -1)).transpose(1, 2)
                for layer, number in (
                    (self.q_proj, heads),
                    (self.k_proj, groups),
                    (self.v_proj, groups),
                )
            )
            repeats = heads // groups
            return q, k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        qkv = call_linear(fused, x)
        if getattr(self, "q_bias", None) is not None:  # EvaAttention keeps the biases apart
            qkv = qkv + torch.cat([self.q_bias, self.k_bias, self.v_bias])
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def _rotation(self, rope: Tensor) -> Rotation:
        host: Any = sys.modules[type(self._host[0]).__module__]
        half = getattr(self, "rotate_half", False)
        return rotate_behind(
            int(self.num_prefix_tokens), lambda x: host.apply_rot_embed_cat(x, rope, half=half)
        )


def rotate_behind(first: int, turn: Callable[[Tensor], Tensor]) -> Rotation:
    """Rotate queries and keys ``(B, heads, N, d)`` behind the first tokens, in their own dtype."""

    def one(x: Tensor) -> Tensor:
        return torch.cat([x[:, :, :first], turn(x[:, :, first:]).type_as(x)], dim=2)

    return lambda q, k: (one(q), one(k))


class TimmBlock(ReducingLayer):
    """In the place of timm's ``Block``."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the host's: ``(B, N, C)``."""
        refuse_others(args, kwargs)

        def attend_half(tokens: Tensor, flow: TokenReduction, inputs: AttentionInputs) -> Tensor:
            change: Tensor = self.ls1(self.attn(self.norm1(tokens), inputs=inputs))
            attended: Tensor = tokens + self.drop_path1(change)
            return attended

        def feed_half(tokens: Tensor) -> Tensor:
            fed: Tensor = tokens + self.drop_path2(self.ls2(self.mlp(self.norm2(tokens))))
            return fed

        return self.reduce(x, attend_half, feed_half)


class TimmEvaBlock(ReducingLayer):
    """In the place of timm's ``EvaBlock``."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the host's: ``(B, N, C)``."""
        rope = kwargs.pop("rope", args[0] if args else None)
        refuse_others(args[1:], kwargs)

        def attend_half(tokens: Tensor, flow: TokenReduction, inputs: AttentionInputs) -> Tensor:
            turned = rope
            if rope is not None:
                sin, cos = rope.chunk(2, -1)
                turned = torch.cat(merged_rotation(sin, cos, flow, self.passage.rotary), dim=-1)
            change = self.attn(self.norm1(tokens), rope=turned, inputs=inputs)
            change = change if self.gamma_1 is None else self.gamma_1 * change
            attended: Tensor = tokens + self.drop_path1(change)
            return attended

        def feed_half(tokens: Tensor) -> Tensor:
            change = self.mlp(self.norm2(tokens))
            change = change if self.gamma_2 is None else self.gamma_2 * change
            fed: Tensor = tokens + self.drop_path2(change)
            return fed

        return self.reduce(x, attend_half, feed_half)


ATTENTIONS = {
    f"timm.{name}": TimmAttention for name in ("Attention", "AttentionRope", "EvaAttention")
}
LAYERS: dict[str, type[ReducingLayer]] = {"timm.Block": TimmBlock, "timm.EvaBlock": TimmEvaBlock}


def find(path: str, module: Any) -> Encoder | None:
    """The encoder that a module is; None for another module."""
    kinds = [f"{each.__module__.split('.')[0]}.{each.__name__}" for each in type(module).__mro__]
    if not any(f"timm.{name}" in kinds for name in ENCODERS):
        return None
    return Encoder(
        name=NAME,
        path=".".join(filter(None, (path, "blocks"))),
        layers=module.blocks,
        patches=module.patch_embed.proj,
        num_prefix=int(module.num_prefix_tokens),
        attention_of=lambda layer: (layer, "attn"),
        attentions=ATTENTIONS,
        kinds=LAYERS,
        turns=getattr(module, "rope", None) is not None,
        grid_of=lambda height, width: tuple(module.patch_embed.dynamic_feat_size((height, width))),
    )


def refuse_others(args: Any, kwargs: Any) -> None:
    """Raise InputError where a layer gets a mask, which merged tokens have none for."""
    if any(value is not None and value is not False for value in (*args, *kwargs.values())):
        raise InputError(
            f"{', '.join(kwargs) or 'attn_mask'} cannot be given while merging is applied; "
            "mmtokmerge.remove(model) first"
        )
