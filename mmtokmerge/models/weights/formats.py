"""What the keys of published SegFormer weights are called: one table for each source.

A pattern is a key with these placeholders, and its target uses the same ones:

- ``<S>`` and ``<s>``, the stage counted from 1 and from 0;
- ``<n>``, the layer within its stage;
- ``*``, a layer's own parameter (weight, bias, or a statistic of BatchNorm);
- ``**``, anything.

Targets are the keys of mmseg's ``MixVisionTransformer`` and ``SegformerHead``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mmtokmerge.errors import InputError


class Rule(NamedTuple):
    """One row of a table.

    Args:
        source: Pattern of the source's keys.
        target: Pattern of ours.
        part: Where several keys make one tensor, the place among its rows, counted from 0.
        change: What is done to the tensor.
    """

    source: str
    target: str
    part: int = 0
    change: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class WeightFormat:
    """A source of weights.

    Args:
        title: The format's name in messages.
        mark: Pattern, after the prefix, of a key that no other source has.
        prefix: What the encoder's keys may begin with.
        encoder: Rules for the encoder's keys after the prefix.
        head: Rules for the decode head's keys.
        dropped: Patterns of keys that no model here has, and what they are.
        norm_eps: Epsilon of the encoder's norms where it is not our default of 1e-6.
    """

    title: str
    mark: str
    prefix: str
    encoder: tuple[Rule, ...]
    head: tuple[Rule, ...]
    dropped: tuple[tuple[str, str], ...] = ()
    norm_eps: float | None = None


def as_conv(x: Tensor) -> Tensor:
    """A linear layer's weight ``(out, in)`` as a 1x1 convolution's; its bias as it is."""
    return x[:, :, None, None] if x.ndim == 2 else x


def fine_to_coarse(x: Tensor) -> Tensor:
    """Columns ``(out, 4 * in, 1, 1)`` from the order of scales 4, 3, 2, 1 to 1, 2, 3, 4.

    Raises:
        InputError: If they are not those of four scales.
    """
    if x.ndim != 4 or x.shape[1] % 4:
        raise InputError(f"a fusion weight of shape {tuple(x.shape)} does not take four scales")
    return torch.cat(x.chunk(4, dim=1)[::-1], dim=1)


_EMBED, _LAYER = "layers.<s>.0.", "layers.<s>.1.<n>."
_IN_PROJ = _LAYER + "attn.attn.in_proj_*"

NVLABS = WeightFormat(
    title="NVlabs's SegFormer",
    mark="patch_embed1.proj.weight",
    prefix="backbone.",
    encoder=(
        Rule("patch_embed<S>.proj.*", _EMBED + "projection.*"),
        Rule("patch_embed<S>.norm.*", _EMBED + "norm.*"),
        Rule("block<S>.<n>.norm1.*", _LAYER + "norm1.*"),
        Rule("block<S>.<n>.attn.q.*", _IN_PROJ, part=0),
        Rule("block<S>.<n>.attn.kv.*", _IN_PROJ, part=1),
        Rule("block<S>.<n>.attn.proj.*", _LAYER + "attn.attn.out_proj.*"),
        Rule("block<S>.<n>.attn.sr.*", _LAYER + "attn.sr.*"),
        Rule("block<S>.<n>.attn.norm.*", _LAYER + "attn.norm.*"),
        Rule("block<S>.<n>.norm2.*", _LAYER + "norm2.*"),
        Rule("block<S>.<n>.mlp.fc1.*", _LAYER + "ffn.layers.0.*", change=as_conv),
        Rule("block<S>.<n>.mlp.dwconv.dwconv.*", _LAYER + "ffn.layers.1.*"),
        Rule("block<S>.<n>.mlp.fc2.*", _LAYER + "ffn.layers.4.*", change=as_conv),
        Rule("norm<S>.*", "layers.<s>.2.*"),
    ),
    head=(
        Rule("decode_head.linear_c<S>.proj.*", "decode_head.convs.<s>.conv.*", change=as_conv),
        Rule(
            "decode_head.linear_fuse.conv.weight",
            "decode_head.fusion_conv.conv.weight",
            change=fine_to_coarse,
        ),
        Rule("decode_head.linear_fuse.bn.*", "decode_head.fusion_conv.bn.*"),
        Rule("decode_head.linear_pred.*", "decode_head.conv_seg.*"),
    ),
    dropped=(
        ("head.*", "ImageNet classifier"),
        ("decode_head.conv_seg.*", "classifier that NVlabs's head does not use"),
    ),
)

HUGGING_FACE = WeightFormat(
    title="Hugging Face's SegFormer",
    mark="encoder.patch_embeddings.0.proj.weight",
    prefix="segformer.",
    encoder=(
        Rule("encoder.patch_embeddings.<s>.proj.*", _EMBED + "projection.*"),
        Rule("encoder.patch_embeddings.<s>.layer_norm.*", _EMBED + "norm.*"),
        Rule("encoder.block.<s>.<n>.layer_norm_1.*", _LAYER + "norm1.*"),
        Rule("encoder.block.<s>.<n>.attention.self.query.*", _IN_PROJ, part=0),
        Rule("encoder.block.<s>.<n>.attention.self.key.*", _IN_PROJ, part=1),
        Rule("encoder.block.<s>.<n>.attention.self.value.*", _IN_PROJ, part=2),
        Rule("encoder.block.<s>.<n>.attention.output.dense.*", _LAYER + "attn.attn.out_proj.*"),
        Rule("encoder.block.<s>.<n>.attention.self.sr.*", _LAYER + "attn.sr.*"),
        Rule("encoder.block.<s>.<n>.attention.self.layer_norm.*", _LAYER + "attn.norm.*"),
        Rule("encoder.block.<s>.<n>.layer_norm_2.*", _LAYER + "norm2.*"),
        Rule("encoder.block.<s>.<n>.mlp.dense1.*", _LAYER + "ffn.layers.0.*", change=as_conv),
        Rule("encoder.block.<s>.<n>.mlp.dwconv.dwconv.*", _LAYER + "ffn.layers.1.*"),
        Rule("encoder.block.<s>.<n>.mlp.dense2.*", _LAYER + "ffn.layers.4.*", change=as_conv),
        Rule("encoder.layer_norm.<s>.*", "layers.<s>.2.*"),
    ),
    head=(
        Rule("decode_head.linear_c.<s>.proj.*", "decode_head.convs.<s>.conv.*", change=as_conv),
        Rule(
            "decode_head.linear_fuse.weight",
            "decode_head.fusion_conv.conv.weight",
            change=fine_to_coarse,
        ),
        Rule("decode_head.batch_norm.*", "decode_head.fusion_conv.bn.*"),
        Rule("decode_head.classifier.*", "decode_head.conv_seg.*"),
    ),
    dropped=(("classifier.*", "ImageNet classifier"),),
    norm_eps=1e-5,
)

MMSEG = WeightFormat(
    title="MMSegmentation's SegFormer",
    mark="layers.0.0.projection.weight",
    prefix="backbone.",
    encoder=(Rule("layers.**", "layers.**"),),
    head=(Rule("decode_head.**", "decode_head.**"),),
    dropped=(("auxiliary_head.**", "auxiliary head"), ("head.**", "head of another task")),
)

FORMATS = {"nvlabs": NVLABS, "hf": HUGGING_FACE, "mmseg": MMSEG}
