"""Published plain ViTs, converted, give the published model's features."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine_helpers import ROOT, run_tool
from torch import Tensor, nn

pytest.importorskip("mmseg", reason="needs MMSegmentation")

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.models.backbones import VisionTransformer as MMSegViT
from mmseg.registry import MODELS

from mmtokmerge.errors import InputError
from mmtokmerge.layers.vit_archs import VIT_ARCHS
from mmtokmerge.models import VisionTransformer
from mmtokmerge.models.weights import ViTWeights, convert, convert_vit
from mmtokmerge.models.weights.safe_load import load_weights_only

NORM = dict(type="LN", eps=1e-6)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight a value of its own, so that no swap goes unseen."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "token" not in name and "pos" not in name:
                value.normal_(std=value[0].numel() ** -0.5)
            else:
                value.normal_(
                    mean=float(bool(re.search(r"norm\S*weight|ln\d.weight", name))), std=0.3
                )
    model.eval()  # MMPretrain's returns nothing
    return model


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def rebuild(converted: ViTWeights) -> VisionTransformer:
    """Our backbone as a config would build it for these weights."""
    model = VisionTransformer(
        arch=converted.arch,
        img_size=converted.img_size,
        patch_size=converted.patch_size,
        final_norm=converted.final_norm,
        norm_cfg=dict(type="LN", eps=converted.norm_eps or 1e-6),
    )
    model.load_state_dict(converted.state_dict, strict=True)
    return model.eval()


def features(model: nn.Module, image: Tensor) -> Tensor:
    """The last layer's tokens ``(B, N, C)`` of our backbone."""
    with torch.no_grad():
        return model(image)[-1].flatten(2).transpose(1, 2)


def timm_model(name: str, **settings: object) -> nn.Module:
    timm = pytest.importorskip("timm")
    return randomise(timm.create_model(name, pretrained=False, **settings))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
@pytest.mark.parametrize(("side", "patch"), [(64, 16), (48, 8)])
def test_timm_gives_the_same_features(name: str, side: int, patch: int) -> None:
    theirs = timm_model(name, img_size=side, patch_size=patch)
    converted = convert_vit(theirs.state_dict())
    assert (converted.arch, converted.img_size, converted.patch_size) == ("t", (side, side), patch)
    assert converted.dropped == {"ImageNet classifier": ["head.weight", "head.bias"]}
    image = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = theirs.forward_features(image)[:, 1:]
    assert_close(features(rebuild(converted), image), expected)


def test_a_pooled_timm_model_has_no_final_norm() -> None:
    theirs = timm_model("vit_tiny_patch16_224", img_size=32, global_pool="avg")
    converted = convert_vit(theirs.state_dict())
    assert not converted.final_norm
    assert converted.dropped["norm of the pooled tokens"] == ["fc_norm.weight", "fc_norm.bias"]
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.forward_features(image)[:, 1:]
    assert_close(features(rebuild(converted), image), expected)


def test_a_distillation_token_stays_with_its_position() -> None:
    theirs = timm_model("deit_tiny_distilled_patch16_224", img_size=32).state_dict()
    converted = convert_vit(theirs)
    assert converted.distilled
    assert converted.dropped["classifier of the distillation token"] == [
        "head_dist.weight",
        "head_dist.bias",
    ]
    for key in ("dist_token", "pos_embed"):
        assert torch.equal(converted.state_dict[key], theirs[key])


@pytest.mark.parametrize("whole", [False, True])
def test_mmpretrain_gives_the_same_features(whole: bool) -> None:
    mmpretrain = pytest.importorskip("mmpretrain.models.backbones")
    theirs = randomise(mmpretrain.VisionTransformer("deit-tiny", img_size=48, out_type="featmap"))
    state = dict(theirs.state_dict())
    if whole:
        state = {f"backbone.{key}": value for key, value in state.items()}
        state["head.layers.head.weight"] = torch.ones(3, 192)
    converted = convert_vit(state)
    assert converted.source == "MMPretrain's ViT or DeiT"
    assert list(converted.dropped) == (["ImageNet classifier"] if whole else [])
    image = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = theirs(image)[-1].flatten(2).transpose(1, 2)
    assert_close(features(rebuild(converted), image), expected)


def test_hugging_face_gives_the_same_features() -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.ViTConfig(
        hidden_size=192,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=48,
        num_labels=3,
    )
    theirs = randomise(transformers.ViTForImageClassification(settings))
    converted = convert_vit(theirs.state_dict())
    assert converted.norm_eps == settings.layer_norm_eps
    assert converted.dropped == {"ImageNet classifier": ["classifier.weight", "classifier.bias"]}
    image = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        expected = theirs.vit(image).last_hidden_state[:, 1:]
    assert_close(features(rebuild(converted), image), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_mmseg_segmentor_gives_its_backbone(bias: bool) -> None:
    theirs = MMSegViT(
        img_size=48,
        embed_dims=192,
        num_heads=3,
        patch_bias=bias,
        final_norm=True,
        norm_cfg=NORM,
    )
    randomise(theirs)
    state = {f"backbone.{key}": value for key, value in theirs.state_dict().items()}
    converted = convert_vit({**state, "decode_head.cls_emb": torch.ones(1, 3, 192)})
    assert converted.dropped == {"decode head": ["decode_head.cls_emb"]}
    image = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = theirs(image)[-1].flatten(2).transpose(1, 2)
    assert_close(features(rebuild(converted), image), expected)


@pytest.mark.parametrize(
    "name", ["segmenter_vit-s_ade20k", *(f"setr{v}_vit-l_ade20k" for v in ("", "-pup", "-mla"))]
)
def test_mmseg_s_segmentors_have_our_keys_and_shapes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mmseg reads drop path rates off a tensor, which the meta device has no values for
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    ours = Config.fromfile(ROOT / f"configs/algm/{name}_none.py").model
    stock = copy.deepcopy(ours)
    arch = VIT_ARCHS[stock.backbone.pop("arch")]
    stock.backbone.pop("out_type")
    stock.backbone.update(type="VisionTransformer", patch_bias=True, **arch)
    stock.decode_head.type = stock.decode_head.type.removeprefix("mmtokmerge.")
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmseg"):
        shapes = [
            {key: value.shape for key, value in MODELS.build(model).state_dict().items()}
            for model in (ours, stock)
        ]
    assert shapes[0] == shapes[1]


def test_a_large_model_is_known_by_its_weights() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        shapes = timm.create_model("vit_large_patch32_384", pretrained=False).state_dict()
    state = {key: torch.zeros(()).expand(value.shape) for key, value in shapes.items()}
    with torch.device("meta"):
        converted = convert_vit(state)
    assert (converted.arch, converted.patch_size, converted.img_size) == ("l", 32, (384, 384))


def test_the_tool_makes_weights_that_init_cfg_resizes(tmp_path: Path) -> None:
    theirs = timm_model("vit_tiny_patch16_224", img_size=64)
    # as Facebook's DeiT files are
    torch.save({"model": theirs.state_dict()}, tmp_path / "deit.pth")
    result = run_tool("convert_weights.py", tmp_path / "deit.pth", tmp_path / "new" / "vit.pth")
    assert result.status == 0, result.output
    for said in ("timm's ViT or DeiT", "arch 't'", "head.weight, head.bias", "none needed"):
        assert said in result.output
    written = load_weights_only(str(tmp_path / "new" / "vit.pth"))
    model = VisionTransformer(
        "t",
        img_size=(32, 96),
        final_norm=True,
        norm_cfg=NORM,
        init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "new" / "vit.pth")),
    )
    model.init_weights()
    grid = theirs.pos_embed[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(grid, (2, 6), mode="bicubic", align_corners=False)
    assert_close(model.pos_embed[:, 1:], resized.flatten(2).transpose(1, 2))
    for key, value in model.state_dict().items():
        if key != "pos_embed":
            assert torch.equal(value, written["state_dict"][key]), key


def test_the_tool_prints_the_settings_of_another_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.ViTConfig(
        hidden_size=192, num_attention_heads=3, intermediate_size=768, image_size=64, patch_size=32
    )
    transformers.ViTModel(settings, add_pooling_layer=False).save_pretrained(tmp_path / "src")
    result = run_tool("convert_weights.py", tmp_path / "src", tmp_path / "dst.pth")
    assert result.status == 0, result.output
    options = dict(re.findall(r"model\.backbone\.([\w.]+)=(\S+)", result.output))
    assert options == {"patch_size": "32", "norm_cfg.type": "LN", "norm_cfg.eps": "1e-12"}


@pytest.mark.parametrize(
    ("change", "settings", "sentence"),
    [
        (
            lambda w: w.update({"blocks.0.ls1.gamma": torch.ones(192)}),
            {},
            r"1 of \d+ keys are not known from timm's ViT or DeiT: blocks.0.ls1.gamma$",
        ),
        (
            lambda w: w.pop("blocks.3.mlp.fc2.bias"),
            {},
            r"do not make a whole ViT: layers.3.ffn.layers.1.bias is missing$",
        ),
        (
            lambda w: w.update({"blocks.2.norm1.bias": torch.ones(3)}),
            {},
            r"layers.2.ln1.bias is \(3,\) where the model has \(192,\)",
        ),
        (
            lambda w: w.update({"blocks.12.norm1.bias": torch.ones(192)}),
            {},
            r"a ViT of width 192 with 13 layers is none of those known: t 192 with 12; s 384",
        ),
        (lambda w: w.pop("cls_token"), {}, r"there is no class token"),
        (lambda w: w.pop("patch_embed.proj.weight"), {}, r"no patch embedding of square patches"),
        (
            lambda w: w.update(pos_embed=torch.ones(1, 7, 192)),
            {},
            r"no position embeddings of a square grid, but 6 of them",
        ),
        (lambda w: None, {"to": "segmentor"}, r"converted to a backbone, not to a segmentor"),
        (lambda w: None, {"source": "hf-vit"}, r"keys are not known from Hugging Face's ViT"),
        (
            lambda w: w.pop("blocks.0.attn.qkv.weight"),
            {},
            r"are of no known source, known are: NVlabs's .*timm's ViT or DeiT, MMPretrain's",
        ),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(
    change: Callable[[dict[str, Tensor]], object], settings: dict[str, str], sentence: str
) -> None:
    weights = dict(timm_model("vit_tiny_patch16_224", img_size=32).state_dict())
    change(weights)
    with pytest.raises(InputError, match=sentence):
        convert(weights, **settings)


def test_unknown_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="is unknown, allowed are 'auto', 'timm', 'mmpretrain'"):
        convert_vit({}, source="nvlabs")
