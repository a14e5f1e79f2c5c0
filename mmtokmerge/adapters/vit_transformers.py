"""Plain ViTs of transformers 4 and 5: ViT, DeiT, DINOv2, DINOv3, BEiT, DPT, ViTPose and EoMT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from mmtokmerge.adapters.base import kind_of
from mmtokmerge.adapters.vit import Encoder, ReducingAttention, ReducingLayer
from mmtokmerge.adapters.vit_transformers_layers import (
    BeitLayer,
    TransformersAttention,
    TransformersLayer,
    attention_of,
    told,
)
from mmtokmerge.errors import InputError


def _registers(model: Any) -> int:
    return 1 + int(model.config.num_register_tokens)


def _one(model: Any) -> int:
    return 1


# A layer's class, and the tokens ahead of the patches in the model that has such layers.
PREFIX: dict[str, Callable[[Any], int]] = {
    "ViTLayer": _one,
    "DeiTLayer": lambda model: 2,
    "Dinov2Layer": _one,
    "Dinov2WithRegistersLayer": _registers,
    "DINOv3ViTLayer": _registers,
    "BeitLayer": _one,
    "DPTViTLayer": _one,
    "VitPoseBackboneLayer": lambda model: 0,
    "EomtLayer": _registers,
}
LAYERS: dict[str, type[ReducingLayer]] = {
    f"transformers.{name}": BeitLayer if name == "BeitLayer" else TransformersLayer
    for name in PREFIX
}
# With their own linear layers: nested in another attention in version 4, by themselves in 5.
ATTENTIONS: dict[str, type[ReducingAttention]] = {
    f"transformers.{name}": TransformersAttention
    for name in (
        *("ViTSelfAttention", "DeiTSelfAttention", "Dinov2SelfAttention", "DPTSelfAttention"),
        *("Dinov2WithRegistersSelfAttention", "VitPoseBackboneSelfAttention"),
        *("BeitSelfAttention", "BeitSdpaSelfAttention"),
        *("ViTAttention", "DeiTAttention", "Dinov2Attention", "Dinov2WithRegistersAttention"),
        *("BeitAttention", "DINOv3ViTAttention", "EomtAttention"),
    )
}


def find(path: str, module: Any, root: nn.Module) -> Encoder | None:
    """The encoder whose list of layers a module is; None for another module."""
    if not isinstance(module, nn.ModuleList) or not len(module):
        return None
    kind = kind_of(module[0])
    if kind not in LAYERS:
        return None
    model = _with_embeddings(path, root)
    if model is None:
        raise InputError(
            f"{path or 'the model'} holds layers of {kind}, but no module above it has their "
            "embeddings: apply merging to the model that has both"
        )
    embedding = getattr(model.embeddings, "patch_embeddings", model.embeddings)
    conv = embedding if isinstance(embedding, nn.Conv2d) else embedding.projection
    blocks = getattr(model.config, "num_blocks", None) if kind.endswith("EomtLayer") else None
    return Encoder(
        name=f"{kind.split('.')[1].removesuffix('Layer')} of transformers",
        path=path,
        layers=module,
        patches=conv,
        num_prefix=PREFIX[kind.split(".")[1]](model),
        attention_of=attention_of,
        attentions=ATTENTIONS,
        kinds=LAYERS,
        turns=hasattr(model, "rope_embeddings"),
        grid_of=lambda height, width: _grid(model.config.patch_size, height, width),
        attributes=told,
        fast_alone=not kind.endswith("BeitLayer"),  # its bias is the host's to make
        num_reducible=None if blocks is None else len(module) - int(blocks),
        why_not="" if blocks is None else "the layers after it take queries too",
    )


def _grid(patch: Any, height: int, width: int) -> tuple[int, int]:
    """Patches of an image, of a config's ``patch_size``, an int or two."""
    down, along = (patch, patch) if isinstance(patch, int) else patch
    return height // int(down), width // int(along)


def _with_embeddings(path: str, root: nn.Module) -> Any:
    """The nearest module above a path that has embeddings."""
    parts = path.split(".")
    for end in range(len(parts) - 1, -1, -1):
        module = root.get_submodule(".".join(parts[:end]))
        if hasattr(module, "embeddings"):
            return module
    return None
