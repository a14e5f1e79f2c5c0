"""The models of mmseg that a config is compared with: the same network, nothing merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict

from mmtokmerge.errors import InputError
from mmtokmerge.merging.arch import read_arch

# How each baseline runs the encoder of MiT++.
ENCODERS = {
    "stock": "mmseg.MixVisionTransformer",
    "stock fused": "mmtokmerge.FusedMixVisionTransformer",
}
# Heads of ours and their mmseg counterparts; heads that are not here stay as they are.
HEADS = {"SegformerHead": "mmseg.SegformerHead"}
SHARED_KEYS = (
    "in_channels",
    "out_indices",
    "drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "norm_cfg",
    "act_cfg",
    "with_cp",
)


def stock_model(model: Mapping[str, Any], baseline: str) -> ConfigDict:
    """The baseline's config of a model with MiT++, at full resolution and without merging.

    Args:
        model: Config of a segmentor or pose estimator.
        baseline: A key of :data:`ENCODERS`.

    Raises:
        InputError: If the backbone or the head has no counterpart in mmseg.
    """
    stock = ConfigDict(model).copy()
    stock["backbone"] = _stock_encoder(model["backbone"], ENCODERS[baseline])
    for place in ("decode_head", "head"):
        if place in stock:
            stock[place] = _stock_head(stock[place])
    return stock


def _stock_encoder(backbone: Mapping[str, Any], kind: str) -> ConfigDict:
    if _name(backbone) != "MiTPlusPlus":
        raise InputError(
            f"backbone {_name(backbone)!r} has no stock counterpart to compare with: "
            "put a config with mmtokmerge.MiTPlusPlus first, or give --baselines none."
        )
    arch = read_arch(backbone.get("arch", "b0"))
    shared = {key: backbone[key] for key in SHARED_KEYS if backbone.get(key) is not None}
    return ConfigDict(
        type=kind,
        embed_dims=arch.embed_dims,
        num_layers=list(arch.num_layers),
        num_heads=list(arch.num_heads),
        sr_ratios=list(arch.sr_ratios),
        patch_sizes=list(arch.patch_sizes),
        strides=list(arch.strides),
        mlp_ratio=arch.mlp_ratio,
        qkv_bias=arch.qkv_bias,
        **shared,
    )


def _stock_head(head: Mapping[str, Any]) -> ConfigDict:
    name = _name(head)
    if name not in HEADS:
        return ConfigDict(head)
    stock = ConfigDict({**head, "type": HEADS[name]})
    if stock.pop("projection", "conv") != "conv":
        raise InputError(
            f"decode_head.projection={head['projection']!r} has no stock counterpart in mmseg: "
            "take 'conv', or give --baselines none."
        )
    return stock


def _name(cfg: Mapping[str, Any]) -> str:
    kind = cfg["type"]
    return kind.rsplit(".", 1)[-1] if isinstance(kind, str) else kind.__name__
