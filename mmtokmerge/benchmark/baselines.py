"""The models of mmseg that a config is compared with: the same network, nothing merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import ConfigDict

from mmtokmerge.errors import InputError
from mmtokmerge.merging.segformer.arch import read_arch

# How each baseline runs the encoder of MiT++, and a plain ViT.
ENCODERS = {
    "stock": "mmseg.MixVisionTransformer",
    "stock fused": "mmtokmerge.FusedMixVisionTransformer",
}
PLAIN_ENCODERS = {
    "stock": "mmseg.VisionTransformer",
    "stock fused": "mmtokmerge.FusedVisionTransformer",
}
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
PLAIN_KEYS = (
    *SHARED_KEYS,
    "img_size",
    "patch_size",
    "mlp_ratio",
    "qkv_bias",
    "with_cls_token",
    "patch_norm",
    "final_norm",
    "interpolate_mode",
)


FIRST = "first"
"""The first config's own model as the baseline, for models without a stock counterpart."""


def has_stock(model: Mapping[str, Any]) -> bool:
    """Whether a model's backbone has a counterpart in mmseg to be compared with."""
    return type_name(model["backbone"]) in ("MiTPlusPlus", "VisionTransformer")


def stock_model(model: Mapping[str, Any], baseline: str) -> ConfigDict:
    """The baseline's config of a model with MiT++ or a plain ViT, without merging.

    Args:
        model: Config of a segmentor or pose estimator.
        baseline: A key of :data:`ENCODERS`.

    Raises:
        InputError: If the backbone or the head has no counterpart in mmseg.
    """
    backbone = model["backbone"]
    name = type_name(backbone)
    if name == "MiTPlusPlus":
        return with_encoder(model, dict(type=ENCODERS[baseline], **mit_settings(backbone)))
    if name == "VisionTransformer":
        return with_encoder(model, dict(type=PLAIN_ENCODERS[baseline], **_vit_settings(backbone)))
    raise InputError(
        f"backbone {name!r} has no stock counterpart to compare with: put a config with "
        "mmtokmerge.MiTPlusPlus or mmtokmerge.VisionTransformer first, or give --baselines none."
    )


def with_encoder(model: Mapping[str, Any], backbone: Mapping[str, Any]) -> ConfigDict:
    """The config of a model with another encoder, and mmseg's own heads where it has them.

    Raises:
        InputError: If the head has no counterpart in mmseg.
    """
    stock = ConfigDict(model).copy()
    stock["backbone"] = ConfigDict(backbone)
    for place in ("decode_head", "head"):
        if place in stock:
            stock[place] = _stock_head(stock[place])
    return stock


def mit_settings(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """What mmseg's ``MixVisionTransformer`` must be given to be this MiT++, nothing merged."""
    arch = read_arch(backbone.get("arch", "b0"))
    shared = {key: backbone[key] for key in SHARED_KEYS if backbone.get(key) is not None}
    return dict(
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


def _vit_settings(backbone: Mapping[str, Any]) -> dict[str, Any]:
    from mmtokmerge.layers.vit_archs import VIT_ARCHS

    arch = backbone.get("arch", "b")
    sizes = VIT_ARCHS[arch] if isinstance(arch, str) else arch
    shared = {key: backbone[key] for key in PLAIN_KEYS if backbone.get(key) is not None}
    indices = shared.get("out_indices", -1)
    if not isinstance(indices, int):  # mmseg knows -1 alone, not in a list
        last = sizes["num_layers"] - 1
        shared["out_indices"] = [last if index == -1 else index for index in indices]
    return dict(**sizes, patch_bias=backbone.get("patch_bias", True), **shared)


def _stock_head(head: Mapping[str, Any]) -> ConfigDict:
    make = HEADS.get(type_name(head))
    return ConfigDict(head if make is None else make(head))


def _segformer_head(head: Mapping[str, Any]) -> dict[str, Any]:
    if head.get("projection", "conv") != "conv":
        raise InputError(
            f"decode_head.projection={head['projection']!r} has no stock counterpart in mmseg: "
            "take 'conv', or give --baselines none."
        )
    rest = {key: value for key, value in head.items() if key != "projection"}
    return {**rest, "type": "mmseg.SegformerHead"}


def _mask_transformer_head(head: Mapping[str, Any]) -> dict[str, Any]:
    ours = ("proportional", "fused")
    rest = {key: value for key, value in head.items() if key not in ours}
    return {**rest, "type": "mmseg.SegmenterMaskTransformerHead"}


def _linear_head(head: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(num_convs=0, kernel_size=1, concat_input=False, channels=head["in_channels"])
    return {**head, **own, "type": "mmseg.FCNHead"}


# Heads of ours and their mmseg counterparts; heads that are not here stay as they are.
HEADS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "SegformerHead": _segformer_head,
    "SegmenterMaskTransformerHead": _mask_transformer_head,
    "SegmenterLinearHead": _linear_head,
}


def type_name(cfg: Mapping[str, Any]) -> str:
    """The name of a config's type without its scope."""
    kind = cfg["type"]
    return kind.rsplit(".", 1)[-1] if isinstance(kind, str) else kind.__name__
