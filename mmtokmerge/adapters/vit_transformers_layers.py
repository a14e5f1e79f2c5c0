"""Layers and self-attentions of transformers' plain ViTs, with tokens reduced in the layers."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.adapters.base import is_recorder, kind_of
from mmtokmerge.adapters.mit_transformers import records_attentions, refuse_attentions
from mmtokmerge.adapters.vit import (
    AttentionInputs,
    ReducingAttention,
    ReducingLayer,
    merged_rotation,
)
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.plain import call_linear
from mmtokmerge.layers.relative_position_bias import mean_over_members
from mmtokmerge.layers.token_reduction import TokenReduction
from mmtokmerge.merging import TokenAssignment

PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))
OUTPUTS = ("o_proj", "out_proj")


class TransformersAttention(ReducingAttention):
    """In the place of a self-attention of transformers, which has its own linear layers."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the host's: the attended tokens ``(B, N, C)``, and None for the weights."""
        inputs: AttentionInputs | None = kwargs.pop("inputs", None)
        if inputs is None and args and isinstance(args[0], AttentionInputs):  # as head_mask
            inputs, args = args[0], args[1:]
        refuse_attentions(
            kwargs.get("output_attentions") or records_attentions() or is_being_recorded(self)
        )
        if inputs is None and not self._can_attend(args, kwargs):
            return self.host_forward(hidden_states, *args, **kwargs)
        inputs = AttentionInputs() if inputs is None else inputs
        names = next(each for each in PROJECTIONS if hasattr(self, each[0]))
        heads = heads_of(self)
        q, k, v = (
            call_linear(getattr(self, name), hidden_states).unflatten(-1, (heads, -1))
            for name in names
        )
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        rotate = None
        positions = kwargs.get("position_embeddings")
        if positions is not None:
            host: Any = sys.modules[type(self._host[0]).__module__]
            cos, sin = positions

            def rotate(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
                turned: tuple[Tensor, Tensor] = host.apply_rotary_pos_emb(q, k, cos, sin)
                return turned

        y = self.attend_heads(q, k, v, inputs, self._drop_rate(), rotate)
        output = next((name for name in OUTPUTS if hasattr(self, name)), None)
        return (y if output is None else call_linear(getattr(self, output), y)), None

    def _can_attend(self, args: Any, kwargs: Any) -> bool:
        """Whether nothing of the call's arguments is for the host alone."""
        if kind_of(self).startswith("transformers.Beit"):
            return False  # its bias is the host's to make
        known = ("position_embeddings", "output_attentions")
        others = [*args, *(value for name, value in kwargs.items() if name not in known)]
        return not any(isinstance(value, Tensor) for value in others)

    def _drop_rate(self) -> float:
        rates: list[Any] = [getattr(self, name, None) for name in DROPOUTS]
        rate: Any = next(each for each in rates if each is not None)
        return float(getattr(rate, "p", rate))


DROPOUTS = ("attention_dropout", "dropout_prob", "dropout")


class TransformersLayer(ReducingLayer):
    """In the place of a layer of transformers.

    ``arguments`` are the names of the host's arguments behind the tokens, in their order, and
    ``as_head_mask`` says that the attention hands on nothing but a ``head_mask`` to what it holds.
    """

    own = (*ReducingLayer.own, "arguments", "as_head_mask")

    arguments: tuple[str, ...]
    as_head_mask: bool

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the host's: ``(B, N, C)``."""
        kwargs.update(zip(self.arguments, args))
        refuse_masks(kwargs)
        positions = kwargs.get("position_embeddings")

        def attend_half(tokens: Tensor, flow: TokenReduction, inputs: AttentionInputs) -> Tensor:
            given = {}
            if positions is not None:
                cos, sin = positions
                turned = merged_rotation(cos, sin, flow, self.passage.rotary)
                given["position_embeddings"] = turned
            return self._add(tokens, self._attend(tokens, inputs, given), 0)

        def feed_half(tokens: Tensor) -> Tensor:
            return self._feed(tokens, kwargs)

        return self.reduce(hidden_states, attend_half, feed_half)

    def _attend(self, tokens: Tensor, inputs: AttentionInputs, given: Any) -> Tensor:
        """What attention adds to the tokens."""
        normed = self._norm(0)(tokens)
        if self.as_head_mask:
            return first_of(self.attention(normed, inputs, **given))
        return first_of(self.attention(normed, inputs=inputs, **given))

    def _feed(self, tokens: Tensor, kwargs: Any) -> Tensor:
        """The second half: MLP on a norm, and residual."""
        normed = self._norm(1)(tokens)
        if hasattr(self, "intermediate"):
            hidden = self.intermediate(normed)
            if not hasattr(self, "lambda_1"):
                out: Tensor = self.output(hidden, tokens)  # adds the residual itself
                return out
            return self._add(tokens, self.output(hidden), 1)
        experts = getattr(self, "num_experts", 1) > 1
        given = dict(indices=kwargs.get("dataset_index")) if experts else {}
        return self._add(tokens, self.mlp(normed, **given), 1)

    def _norm(self, half: int) -> Any:
        names = ("layernorm_before", "layernorm_after")
        name = names[half] if hasattr(self, names[half]) else f"norm{half + 1}"
        return getattr(self, name)

    def _add(self, tokens: Tensor, change: Tensor, half: int) -> Tensor:
        """The residual, behind whatever the host scales and drops a branch by."""
        for name in ("dropout", f"layer_scale{half + 1}"):
            module = getattr(self, name, None)
            change = change if module is None else module(change)
        scale = getattr(self, f"lambda_{half + 1}", None)
        change = change if scale is None else scale * change
        drop_path = getattr(self, "drop_path", None)
        return tokens + (change if drop_path is None else drop_path(change))

    def _leaf(self) -> Any:
        holder, name = attention_of(self)
        return getattr(holder, name)


class BeitLayer(TransformersLayer):
    """In the place of ``BeitLayer``: merged tokens have the mean bias of their members."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the host's: a tuple of ``(B, N, C)`` in version 4, which its encoder takes apart."""
        kwargs.update(zip(self.arguments, args))
        refuse_attentions(kwargs.get("output_attentions"))
        shared = kwargs.get("relative_position_bias")  # version 4
        if hasattr(self, "relative_position_bias"):  # version 5
            shared = kwargs.pop("attention_mask", None)
        refuse_masks(kwargs)

        def attend_half(tokens: Tensor, flow: TokenReduction, inputs: AttentionInputs) -> Tensor:
            bias = self._bias(hidden_states.shape[1], shared, kwargs)
            if bias is not None:
                bias = bias.reshape(-1, *bias.shape[-3:])
                if flow.assignment is not None:
                    bias = mean_over_members(bias, behind_prefix(flow.assignment, flow.num_prefix))
                bias = bias.to(tokens.dtype)
                inputs.bias = bias if inputs.bias is None else bias + inputs.bias
            return self._add(tokens, self._attend(tokens, inputs, {}), 0)

        def feed_half(tokens: Tensor) -> Tensor:
            return self._feed(tokens, kwargs)

        out = self.reduce(hidden_states, attend_half, feed_half)
        return (out,) if hasattr(self, "intermediate") else out

    def _bias(self, length: int, shared: Any, kwargs: Any) -> Tensor | None:
        """The bias of all patches, the layer's own and what the encoder's layers share."""
        leaf = self._leaf()
        own = getattr(self, "relative_position_bias", None)
        if own is None and getattr(leaf, "has_relative_position_bias", False):
            own = leaf.relative_position_bias
        if own is None:
            bias: Tensor | None = shared
            return bias
        patch: Any = leaf.config.patch_size
        height, width = kwargs["resolution"]
        grid = (height // patch, width // patch)
        interpolate = kwargs.get("interpolate_pos_encoding", False)
        made: Tensor = own(grid, interpolate, dim_size=length)
        return made if shared is None else made + shared


def heads_of(attention: Any) -> int:
    """Heads of a self-attention of transformers."""
    return int(getattr(attention, "num_attention_heads", 0) or attention.num_heads)


def attention_of(layer: Any) -> tuple[Any, str]:
    """What holds a layer's self-attention, and its name: nested in version 4's older models."""
    return (
        (layer.attention, "attention")
        if hasattr(layer.attention, "attention")
        else (
            layer,
            "attention",
        )
    )


def first_of(output: Any) -> Tensor:
    """The tokens of what an attention returns, alone or with its weights."""
    tokens: Tensor = output[0] if isinstance(output, tuple) else output
    return tokens


def behind_prefix(assignment: TokenAssignment, first: int) -> TokenAssignment:
    """The same groups of patches behind tokens that stand alone."""
    batch = len(assignment.groups)
    alone = torch.arange(first, device=assignment.groups.device).expand(batch, -1)
    groups = torch.cat([alone, assignment.groups + first], dim=1)
    sizes = torch.cat([torch.ones_like(alone), assignment.sizes], dim=1)
    return TokenAssignment(groups, sizes, padded=assignment.padded)


def refuse_masks(kwargs: Any) -> None:
    """Raise InputError where a layer gets a mask, which merged tokens have none for."""
    for name in ("attention_mask", "head_mask"):
        if kwargs.get(name) is not None:
            raise InputError(
                f"{name} cannot be given while merging is applied; mmtokmerge.remove(model) first"
            )


def is_being_recorded(module: nn.Module) -> bool:
    """Whether transformers 4, which wraps forwards for it, collects attention weights now.

    A wrapper that an earlier error left behind collects into what no running call holds.
    """
    forward: Any = module.__dict__.get("forward")
    if not is_recorder(forward):
        return False
    collected = inspect.getclosurevars(forward).nonlocals.get("collected_outputs")
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "wrapper" and frame.f_locals.get(COLLECTED) is collected:
            return True
        frame = frame.f_back
    return False


COLLECTED = "collected_outputs"


def told(layer: Any) -> dict[str, Any]:
    """What a layer's replacement is told of the host; see :class:`TransformersLayer`."""
    taken = inspect.signature(type(layer).forward).parameters.values()
    names = tuple(each.name for each in taken if each.kind is each.POSITIONAL_OR_KEYWORD)
    attention = layer.attention
    nested = hasattr(attention, "attention")
    head_mask = "head_mask" in inspect.signature(type(attention).forward).parameters
    return dict(arguments=names[2:], as_head_mask=nested and head_mask)
