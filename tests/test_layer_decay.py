"""Learning rates that fall from layer to layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmtokmerge.errors import InputError
from mmtokmerge.models import VisionTransformer, ViTAdapter

ARCH = dict(embed_dims=16, num_layers=4, num_heads=2)


class Model(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = nn.Linear(16, 3)


def groups(backbone: nn.Module, **paramwise: Any) -> dict[str, dict[str, Any]]:
    """Each parameter's group."""
    model = Model(backbone)
    wrapper = dict(
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.05),
        constructor="mmtokmerge.LayerDecayConstructor",
        paramwise_cfg=paramwise,
    )
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def adapter() -> ViTAdapter:
    vit = dict(type="mmtokmerge.EVA", arch=ARCH, img_size=64)
    return ViTAdapter(vit=vit, num_heads=2, stem_channels=4, norm_cfg=dict(type="BN"))


@pytest.mark.parametrize("adapted", [False, True])
def test_rates_fall_by_hand(adapted: bool) -> None:
    backbone = adapter() if adapted else VisionTransformer(ARCH, img_size=64)
    found = groups(backbone, num_layers=4, decay_rate=0.5)
    ahead = "backbone.vit." if adapted else "backbone."
    rates = {name: group["lr"] for name, group in found.items()}
    assert rates["decode_head.weight"] == 1
    assert rates[f"{ahead}layers.3.ln1.weight"] == 0.5
    assert rates[f"{ahead}layers.0.ln1.weight"] == 0.5**4
    assert rates[f"{ahead}pos_embed"] == rates[f"{ahead}patch_embed.projection.weight"] == 0.5**5
    if adapted:
        assert rates["backbone.spm.fc1.weight"] == rates["backbone.level_embed"] == 1
    for name, group in found.items():
        plain = name.endswith(
            (".bias", "pos_embed", "cls_token", "gamma_1", "ln1.weight", "_table")
        )
        assert not plain or group["weight_decay"] == 0, name
    assert found["decode_head.weight"]["weight_decay"] == 0.05


@pytest.mark.parametrize(
    ("paramwise", "sentence"),
    [
        (dict(num_layers=12, decay_rate=0.9), "num_layers=12, but the backbone has 4 layers"),
        (dict(num_layers=4), "takes num_layers and decay_rate, got"),
        (dict(), "takes num_layers and decay_rate, got none"),
        (dict(num_layers=4, decay_rate=2), "decay_rate"),
        (dict(num_layers=4, decay_rate=0.9, decay=1), "takes num_layers and decay_rate"),
    ],
)
def test_wrong_settings_are_a_sentence(paramwise: dict[str, Any], sentence: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=sentence):
        groups(VisionTransformer(ARCH, img_size=64), **paramwise)


def test_an_optimizer_without_weight_decay_steps() -> None:
    model = Model(VisionTransformer(ARCH, img_size=64))
    wrapper = build_optim_wrapper(
        model,
        dict(
            type="OptimWrapper",
            optimizer=dict(type="SGD", lr=0.1),
            constructor="mmtokmerge.LayerDecayConstructor",
            paramwise_cfg=dict(num_layers=4, decay_rate=0.9),
        ),
    )
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    wrapper.step()
