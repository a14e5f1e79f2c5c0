"""Every public model class of a host whose encoder an adapter names is known, in this version."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_models import DPT, MIT, POSE, REGISTERS, SMALL
from torch import nn

import mmtokmerge

FAMILIES: dict[str, dict[str, Any]] = {
    "Segformer": MIT,
    "GLPN": {**MIT, "hidden_sizes": [32, 64, 160, 256]},
    "ViT": SMALL,
    "DeiT": SMALL,
    "Dinov2": SMALL,
    "Dinov2WithRegisters": {**SMALL, **REGISTERS},
    "DINOv3ViT": {**SMALL, **REGISTERS},
    "Beit": {**SMALL, "out_indices": [1, 2, 3, 4]},
    "DPT": {**SMALL, **DPT},
    "VitPoseBackbone": {**POSE, "image_size": [64, 64], "patch_size": [8, 8]},
    "Eomt": {**SMALL, "num_blocks": 1, "num_queries": 7},
}


def model_classes(family: str) -> list[Any]:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")
    named = [name for name in dir(transformers) if name.startswith(family)]
    candidates = [getattr(transformers, n) for n in named if not n.endswith("PreTrainedModel")]
    models = [c for c in candidates if isinstance(c, type) and issubclass(c, nn.Module)]
    return [model for model in models if getattr(model, "config_class", None) is config]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_class_of_a_family_is_known(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    classes = model_classes(family)
    assert classes
    for each in classes:
        if each.__name__ == "SegformerDecodeHead":
            continue  # an encoder is not in it
        model = each(config).eval()
        if family == "Beit":  # whose attention has no faster kernel, so 'none' is refused
            report = mmtokmerge.apply(model, "algm", threshold=0.9)
        else:
            report = mmtokmerge.apply(model, "none")
        assert report.layers and not report.left_alone, each
        mmtokmerge.remove(model)


@pytest.mark.parametrize(
    "name",
    [
        *("vit_tiny_patch16_224", "deit_small_distilled_patch16_224", "vit_base_patch8_224"),
        *("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"),
        *("vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3"),
        *("eva02_tiny_patch14_224", "vit_base_patch16_siglip_224", "vit_base_patch16_clip_224"),
        *("vit_small_patch16_rope_ape_224", "vit_mediumd_patch16_rope_reg1_gap_256"),
        *("beit3_base_patch16_224", "vit_base_r50_s16_224"),
    ],
)
def test_timm_s_models_are_known_or_named(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    report = mmtokmerge.apply(model, "algm", threshold=0.9)
    assert len(report.layers) == len(model.blocks)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vit_base_patch16_xp_224", "a layer of timm.ParallelScalingBlock is not known"),
        ("vit_small_patch16_18x2_224", "a layer of timm.ParallelThingsBlock is not known"),
        ("resnet18", "knows no encoder in a ResNet; known are: "),
        ("swin_tiny_patch4_window7_224", "knows no encoder in a SwinTransformer"),
    ],
)
def test_what_is_not_known_is_a_sentence(name: str, sentence: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        try:
            model = timm.create_model(name, pretrained=False)
        except RuntimeError as error:
            pytest.skip(str(error))
    with pytest.raises(ValueError, match=sentence):
        mmtokmerge.apply(model, "algm", threshold=0.9)
