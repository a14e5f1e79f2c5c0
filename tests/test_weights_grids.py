"""The grid of positions comes from the checkpoint, whichever way the weights come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmtokmerge.models.backbones import BEiT, VisionTransformer
from mmtokmerge.models.weights import convert
from mmtokmerge.models.weights.fit import load_weights
from mmtokmerge.models.weights.grids import grid_of
from mmtokmerge.models.weights.safe_load import load_weights_safely

ARCH = dict(embed_dims=16, num_layers=1, num_heads=2)
WIDE, SQUARE = (18, 32), (24, 24)  # of as many patches


@pytest.fixture(autouse=True)
def safe() -> None:
    load_weights_safely()


def vit(grid: tuple[int, int], **settings: Any) -> VisionTransformer:
    return VisionTransformer(ARCH, img_size=(grid[0] * 16, grid[1] * 16), **settings)


class Segmentor(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = nn.Conv2d(16, 3, 1)


def counted(model: VisionTransformer) -> VisionTransformer:
    """Positions whose first channel says their row, the second their column."""
    h, w = model.grid
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    with torch.no_grad():
        model.pos_embed.zero_()
        model.pos_embed[0, 1:, 0] = rows.flatten().float()
        model.pos_embed[0, 1:, 1] = columns.flatten().float()
    return model


def resized(source: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    maps = source[:, 1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    maps = nn.functional.interpolate(maps, new, mode="bicubic", align_corners=False)
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


@pytest.mark.parametrize("says", ["metadata", "config"])
def test_a_prefix_keeps_the_grid(says: str, tmp_path: Path) -> None:
    source = counted(vit(WIDE))
    state = Segmentor(source).state_dict()
    content: dict[str, Any] = {"state_dict": state, "meta": {}}
    if says == "config":
        text = "model = dict(backbone=dict(img_size=(288, 512), patch_size=16))"
        content = {"state_dict": dict(state), "meta": {"cfg": text}}
    torch.save(content, tmp_path / "w.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "w.pth"), prefix="backbone.")
    model = vit(WIDE, init_cfg=init)
    model.init_weights()
    assert model.pos_embed.equal(source.pos_embed)


def test_a_prefix_keeps_the_grid_of_relative_tables(tmp_path: Path) -> None:
    settings = dict(embed_dims=16, num_layers=1, num_heads=2)
    source = BEiT(settings, img_size=(80, 128))
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    torch.save({"state_dict": Segmentor(source).state_dict(), "meta": {}}, tmp_path / "w.pth")
    found = []
    for prefix, weights in (("backbone.", "w.pth"), (None, "bare.pth")):
        torch.save({"state_dict": source.state_dict(), "meta": {}}, tmp_path / "bare.pth")
        init = dict(type="Pretrained", checkpoint=str(tmp_path / weights), prefix=prefix)
        model = BEiT(settings, img_size=(128, 80), init_cfg=init)
        model.init_weights()
        found.append(model.layers[0].attn.relative_position_bias_table)
    assert found[0].equal(found[1])
    assert not found[0].equal(source.layers[0].attn.relative_position_bias_table)


@pytest.mark.parametrize("state", ["plain", "own"])
def test_a_bare_backbone_of_squares_is_resized_in_a_segmentor(state: str, tmp_path: Path) -> None:
    """576 positions that no file calls 18x32 are pretraining's 24x24."""
    source = counted(vit(SQUARE))
    weights = source.state_dict()
    torch.save(dict(weights) if state == "plain" else weights, tmp_path / "w.pth")
    model = Segmentor(vit(WIDE))
    load_weights(model, str(tmp_path / "w.pth"), training=True)
    expected = resized(source.pos_embed, SQUARE, WIDE)
    torch.testing.assert_close(model.backbone.pos_embed[:, 1:], expected)


def test_a_segmentor_that_says_no_grid_is_taken_as_the_models_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from mmtokmerge.models.weights.fit import fit_weights

    source = Segmentor(counted(vit(WIDE)))
    fitted = fit_weights(Segmentor(vit(WIDE)), dict(source.state_dict()), "w.pth")
    assert fitted.weights["backbone.pos_embed"].equal(source.backbone.pos_embed)
    assert "w.pth does not say the grid of its positions" in fitted.notes[0]
    assert "18x32" in fitted.notes[0]


def test_conversion_keeps_the_grid() -> None:
    source = VisionTransformer("t", img_size=(288, 512))
    state = {key: value for key, value in source.state_dict().items() if "patch_embed" not in key}
    state |= {k: v for k, v in source.state_dict().items() if "patch_embed" in k}
    converted = convert(state, "mmseg-vit", grid=WIDE)
    assert converted.img_size == (288, 512)
    assert grid_of({"state_dict": converted.state_dict}) == WIDE
    assert convert(state, "mmseg-vit").img_size == (384, 384)  # 576 positions, and nobody says


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        ("model = dict(backbone=dict(img_size=(288, 512), patch_size=16))", WIDE),
        ("model = dict(backbone=dict(img_size=(288, 512)))", WIDE),
        ("size = (288, 512)\nmodel = dict(backbone=dict(img_size=size))", WIDE),
        ("crop = dict(img_size=224)\nmodel = dict(backbone=dict(img_size=(288, 512)))", WIDE),
        (
            "model = dict(decode_head=dict(patch_size=32), backbone=dict(img_size=[288, 512]))",
            WIDE,
        ),
        ("model = {'backbone': {'img_size': 384, 'patch_size': 32}}", (12, 12)),
        ("b = dict(img_size=384)\nmodel = dict(backbone=b)", SQUARE),
        (json.dumps({"model": {"backbone": {"img_size": [288, 512]}}}), WIDE),
        ("model = dict(backbone=dict(depth=50))", None),
        ("model = build(", None),
        ("", None),
    ],
)
def test_a_config_says_the_grid(text: str, grid: tuple[int, int] | None) -> None:
    assert grid_of({"state_dict": {}, "meta": {"cfg": text}}) == grid
