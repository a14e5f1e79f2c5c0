"""SegFormer's sizes read off its weights, and the model that must take every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmtokmerge.checks import one_of
from mmtokmerge.errors import InputError
from mmtokmerge.merging.segformer.arch import MIT_ARCHS
from mmtokmerge.models.weights.formats import FORMATS
from mmtokmerge.models.weights.load import load_strictly
from mmtokmerge.models.weights.rename import ENCODER, HEAD, detect_format, rename

TARGETS = ("backbone", "segmentor")


@dataclass(frozen=True)
class SegFormerWeights:
    """Weights that one of our models was seen to take whole.

    Args:
        source: Whose they are.
        arch: 'b0' to 'b5'.
        head: What ``mmtokmerge.SegformerHead`` must be built with, or None for a backbone.
        norm_eps: Epsilon of the encoder's norms in the source where it is not our default.
        parameters: Number of trained values.
        dropped: For each kind of weights that were left out, their keys.
        state_dict: The state dict of ``MiTPlusPlus``, or with a head of a segmentor.
    """

    source: str
    arch: str
    head: dict[str, Any] | None
    norm_eps: float | None
    parameters: int
    dropped: dict[str, list[str]]
    state_dict: dict[str, Tensor]


def convert_segformer(
    state: Mapping[str, Tensor], source: str = "auto", to: str | None = None
) -> SegFormerWeights:
    """Convert the weights of a published SegFormer, and check them by loading them.

    Args:
        state: The source's state dict.
        source: A name in ``FORMATS``, or 'auto' to find it by the keys.
        to: 'backbone', 'segmentor', or None for a segmentor where there is a decode head.

    Raises:
        InputError: If a key is unknown, or the result is not a whole SegFormer of B0 to B5.
        ValueError: If ``source`` or ``to`` is unknown.
    """
    one_of("source", source, ("auto", *FORMATS))
    one_of("to", to, (None, *TARGETS))
    table = FORMATS[detect_format(state) if source == "auto" else source]
    renamed = rename(state, table)
    if to == "backbone":
        renamed.drop_head()
    if to == "segmentor" and not renamed.has_head:
        raise InputError("there is no decode head to make a segmentor of, only a backbone")
    arch = name_arch(renamed.weights)
    head = head_settings(renamed.weights, arch) if renamed.has_head else None
    model = build_model(arch, head)
    load_strictly(model, renamed.weights, "SegFormer")
    return SegFormerWeights(
        source=table.title,
        arch=arch,
        head=head,
        norm_eps=table.norm_eps,
        parameters=sum(value.numel() for value in model.parameters()),
        dropped=renamed.dropped,
        state_dict=dict((model if head is not None else model["backbone"]).state_dict()),
    )


def name_arch(weights: Mapping[str, Tensor]) -> str:
    """'b0' to 'b5', from the width and the number of layers of the encoder ``backbone.*``.

    Raises:
        InputError: If it is none of them.
    """
    key = f"{ENCODER}layers.0.0.projection.weight"
    if key not in weights:
        raise InputError("there is no encoder: its first patch embedding is missing")
    width = weights[key].shape[0]
    numbers = tuple(_count_layers(weights, stage) for stage in range(4))
    for name, arch in MIT_ARCHS.items():
        if arch.embed_dims == width and arch.num_layers == numbers:
            return name
    raise InputError(
        f"an encoder of width {width} with {numbers} layers is none of SegFormer's, which are "
        + "; ".join(f"{n} {a.embed_dims} with {a.num_layers}" for n, a in MIT_ARCHS.items())
    )


def head_settings(weights: Mapping[str, Tensor], arch: str) -> dict[str, Any]:
    """What ``mmtokmerge.SegformerHead`` must be built with for the weights ``decode_head.*``.

    Raises:
        InputError: If the head is not SegFormer's.
    """
    fusion = weights.get(f"{HEAD}fusion_conv.conv.weight")
    classifier = weights.get(f"{HEAD}conv_seg.weight")
    if fusion is None or classifier is None:
        raise InputError(
            "the decode head is not SegFormer's: its fusion convolution or classifier is missing"
        )
    linear = f"{HEAD}convs.0.conv.bias" in weights
    return dict(
        in_channels=list(MIT_ARCHS[arch].channels),
        channels=fusion.shape[0],
        num_classes=classifier.shape[0],
        projection="linear" if linear else "conv",
    )


def build_model(arch: str, head: Mapping[str, Any] | None) -> nn.ModuleDict:
    """The encoder and, where ``head`` says how to build it, the decode head."""
    from mmtokmerge.models.backbones import MiTPlusPlus

    model = nn.ModuleDict({"backbone": MiTPlusPlus(arch)})
    if head is not None:
        from mmtokmerge.models.heads import SegformerHead

        model["decode_head"] = SegformerHead(
            in_index=[0, 1, 2, 3], norm_cfg=dict(type="BN"), align_corners=False, **head
        )
    return model


def _count_layers(weights: Mapping[str, Tensor], stage: int) -> int:
    start = f"{ENCODER}layers.{stage}.1."
    return len({key[len(start) :].split(".")[0] for key in weights if key.startswith(start)})
