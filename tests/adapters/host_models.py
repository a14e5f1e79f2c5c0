"""Small models of the hosts, with random weights, and how to run each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

SMALL = dict(
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=64,
    image_size=64,
    patch_size=8,
)
DPT = dict(
    backbone_out_indices=[0, 1, 2, 3],
    neck_hidden_sizes=[8, 8, 8, 8],
    fusion_hidden_size=8,
    is_hybrid=False,
)
REGISTERS = dict(num_register_tokens=2)
POSE = {k: v for k, v in SMALL.items() if k != "intermediate_size"}
MIT = dict(depths=[1, 2, 1, 1], hidden_sizes=[16, 32, 80, 128], num_attention_heads=[1, 2, 5, 8])


def randomise(model: nn.Module, std: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model.eval()


def transformers(model: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        package = pytest.importorskip("transformers")
        return randomise(getattr(package, model)(getattr(package, config)(**settings)))

    return build


def vitpose() -> nn.Module:
    package = pytest.importorskip("transformers")
    backbone = package.VitPoseBackboneConfig(**{**POSE, "image_size": [64, 64]})
    backbone.patch_size = [8, 8]
    config = package.VitPoseConfig(backbone_config=backbone, num_labels=5)
    return randomise(package.VitPoseForPoseEstimation(config))


def timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        package = pytest.importorskip("timm")
        patch = 14 if "14" in name else 16
        given = dict(depth=4, embed_dim=48, num_heads=4, img_size=patch * 8, pretrained=False)
        return randomise(package.create_model(name, **{**given, **settings}))

    return build


def smp(decoder: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        package = pytest.importorskip("segmentation_models_pytorch")
        return randomise(getattr(package, decoder)("mit_b0", encoder_weights=None, classes=4))

    return build


def mmseg() -> nn.Module:
    mit = import_or_skip("mmseg.models.backbones.mit")
    heads = [1, 2, 5, 8]
    return randomise(
        mit.MixVisionTransformer(
            embed_dims=16, num_layers=[1, 2, 1, 1], num_heads=heads, sr_ratios=[8, 4, 2, 1]
        )
    )


SEGFORMERS: dict[str, Callable[[], nn.Module]] = {
    "transformers": transformers(
        "SegformerForSemanticSegmentation", "SegformerConfig", num_labels=5, **MIT
    ),
    "glpn": transformers(
        "GLPNForDepthEstimation", "GLPNConfig", **{**MIT, "hidden_sizes": [32, 64, 160, 256]}
    ),
    "mmseg": mmseg,
    "smp-segformer": smp("Segformer"),
    "smp-fpn": smp("FPN"),
}
VITS: dict[str, Callable[[], nn.Module]] = {
    "timm-vit": timm("vit_tiny_patch16_224", qkv_bias=True),
    "timm-deit": timm("deit_tiny_distilled_patch16_224"),
    "timm-dinov2": timm("vit_small_patch14_reg4_dinov2"),
    "timm-eva02": timm("eva02_tiny_patch14_224"),
    "timm-dinov3": timm("vit_small_patch16_dinov3"),
    "timm-mixed-rope": timm("vit_small_patch16_rope_mixed_224"),
    "vit": transformers("ViTModel", "ViTConfig", **SMALL),
    "deit": transformers("DeiTModel", "DeiTConfig", **SMALL),
    "dinov2": transformers("Dinov2Model", "Dinov2Config", **SMALL),
    "dinov2-swiglu": transformers("Dinov2Model", "Dinov2Config", use_swiglu_ffn=True, **SMALL),
    "dinov2-backbone": transformers("Dinov2Backbone", "Dinov2Config", out_indices=[1, 3], **SMALL),
    "dinov2-registers": transformers(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **SMALL, **REGISTERS
    ),
    "dinov3": transformers("DINOv3ViTModel", "DINOv3ViTConfig", **SMALL, **REGISTERS),
    "beit": transformers(
        "BeitModel", "BeitConfig", use_relative_position_bias=True, drop_path_rate=0.0, **SMALL
    ),
    "beit-shared": transformers(
        "BeitModel", "BeitConfig", use_shared_relative_position_bias=True, **SMALL
    ),
    "dpt": transformers("DPTForDepthEstimation", "DPTConfig", **SMALL, **DPT),
    "dpt-segmentation": transformers("DPTForSemanticSegmentation", "DPTConfig", **SMALL, **DPT),
    "vitpose": vitpose,
    "eomt": transformers(
        "EomtForUniversalSegmentation",
        "EomtConfig",
        num_blocks=1,
        num_queries=7,
        num_labels=5,
        **SMALL,
    ),
}


def images(model: nn.Module, batch: int = 2) -> Tensor:
    """A batch of the size that a plain ViT was built for."""
    side = 64
    if "timm" in type(model).__module__:
        side = model.patch_embed.img_size[0]
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def run(model: nn.Module, x: Tensor) -> list[Tensor]:
    """All that a model's public ways to call it return, intermediate layers first."""
    module = type(model).__module__
    if "transformers" in module:
        out = model(x, output_hidden_states=True)
        hidden = list(out.hidden_states)
        return [*hidden, *(value for value in out.to_tuple() if isinstance(value, Tensor))]
    if hasattr(model, "forward_intermediates"):
        last, maps = model.forward_intermediates(x)
        return [*maps, last]
    out = model(x)
    return [out] if isinstance(out, Tensor) else list(out)


@cache
def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        return f"{name} does not import here: {error!r}"[:120]


def import_or_skip(name: str) -> Any:
    """A module, or a skip where it does not import, as mm* beside transformers 5."""
    found = _import(name)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def own_models() -> Any:
    """``mmtokmerge.models``, or a skip where mm* does not import."""
    import_or_skip("mmseg.models.backbones.mit")
    return import_or_skip("mmtokmerge.models")
