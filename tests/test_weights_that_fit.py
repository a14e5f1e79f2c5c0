"""One rule for every way in which weights reach a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import run_tool, weights_of, write_config
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.models.backbones import MiTPlusPlus
from mmtokmerge.models.weights.fit import fit_weights, load_weights
from mmtokmerge.models.weights.safe_load import load_weights_safely

SMALL = dict(embed_dims=8, num_layers=(1, 1, 1, 1))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def saved(path: Path, weights: dict[str, Any]) -> dict[str, str]:
    torch.save(weights, path)
    return dict(type="Pretrained", checkpoint=str(path))


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "model.", "module.backbone."])
@pytest.mark.parametrize("as_list", [False, True])
def test_known_prefixes_load_all_of_a_backbone(prefix: str, as_list: bool, tmp_path: Path) -> None:
    load_weights_safely()
    source = MiTPlusPlus(SMALL)
    weights: dict[str, Any] = {prefix + k: v for k, v in source.state_dict().items()}
    if "backbone" in prefix:
        weights |= {"decode_head.conv_seg.weight": torch.zeros(3, 8, 1, 1)}
    init = saved(tmp_path / "w.pth", {"state_dict": weights})
    model = MiTPlusPlus(SMALL, init_cfg=[init] if as_list else init)
    assert not same(model, source)
    model.init_weights()
    assert same(model, source)


def test_safetensors_load(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    source = MiTPlusPlus(SMALL)
    save_file(dict(source.state_dict()), str(tmp_path / "w.safetensors"))
    load_weights_safely()
    model = MiTPlusPlus(
        SMALL, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "w.safetensors"))
    )
    model.init_weights()
    assert same(model, source)


def test_hugging_faces_layout_is_converted_on_the_fly(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.SegformerModel(transformers.SegformerConfig()).eval()  # B0
    init = saved(tmp_path / "hf.pth", dict(theirs.state_dict()))
    eps = dict(type="LN", eps=1e-5)
    model = MiTPlusPlus("b0", norm_cfg=eps, init_cfg=init).eval()
    model.init_weights()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = theirs(x, output_hidden_states=True).hidden_states
        for a, b in zip(model(x), wanted):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (lambda: MiTPlusPlus("b1").state_dict(), "It looks like b1's weights"),
        (lambda: MiTPlusPlus("b0", in_channels=4).state_dict(), "images of 4 channels"),
        (lambda: {"x.weight": torch.zeros(2)}, "It looks like weights of x"),
        (
            lambda: dict(list(MiTPlusPlus("b0").state_dict().items())[:-1]),
            "layers.3.2.bias is missing",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_it_looks_like(weights: Any, says: str) -> None:
    with pytest.raises(InputError, match=r"does not fit") as caught:
        fit_weights(MiTPlusPlus("b0"), weights(), "w.pth")
    assert says in str(caught.value) and "\n" not in str(caught.value)


class Network(nn.Module):
    def __init__(self, classes: int, auxiliary: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4)
        self.decode_head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, classes))
        if auxiliary:
            self.auxiliary_head = nn.Linear(4, classes)


def test_fine_tuning_takes_another_class_count_and_says_so() -> None:
    source, model = Network(3), Network(5, auxiliary=True)
    fitted = fit_weights(model, source.state_dict(), "w.pth", training=True)
    assert [note for note in fitted.notes if "3 instead of 5" in note]
    assert [note for note in fitted.notes if "no auxiliary_head" in note]
    model.load_state_dict(fitted.weights, strict=False)
    assert torch.equal(model.backbone.weight, source.backbone.weight)
    assert torch.equal(model.decode_head[0].weight, source.decode_head[0].weight)
    with pytest.raises(InputError, match="decode_head"):
        fit_weights(model, source.state_dict(), "w.pth")


def test_a_backbone_alone_begins_a_training_but_not_a_test() -> None:
    source, model = Network(3), Network(3)
    weights: dict[str, Tensor] = source.backbone.state_dict()
    fitted = fit_weights(model, weights, "w.pth", training=True)
    assert set(fitted.weights) == {"backbone.weight", "backbone.bias"}
    with pytest.raises(InputError, match="decode_head"):
        fit_weights(model, weights, "w.pth")


def test_load_weights_reads_and_loads(tmp_path: Path) -> None:
    source, model = Network(3), Network(3)
    torch.save({"state_dict": source.state_dict(), "meta": {"iter": 4}}, tmp_path / "w.pth")
    assert load_weights(model, str(tmp_path / "w.pth"))["meta"] == {"iter": 4}
    assert same(model, source)


@pytest.mark.slow
def test_load_from_of_what_fits_nothing_is_an_error_and_of_a_backbone_trains(
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path)
    other = tmp_path / "other.pth"
    torch.save({"x": torch.zeros(1)}, other)
    wrong = run_tool(
        "train.py", config, "--work-dir", tmp_path / "a", "--cfg-options", f"load_from={other}"
    )
    assert wrong.status == 1 and "does not fit" in wrong.error
    assert not list((tmp_path / "a").glob("*.pth"))
    assert run_tool("train.py", config, "--work-dir", tmp_path / "b").status == 0
    first = max((tmp_path / "b").glob("iter_*.pth"))
    backbone = {
        key.removeprefix("backbone."): value
        for key, value in weights_of(first).items()
        if key.startswith("backbone.")
    }
    torch.save(backbone, other)
    options = [f"load_from={other}", "optim_wrapper.optimizer.lr=0.0"]
    right = run_tool("train.py", config, "--work-dir", tmp_path / "c", "--cfg-options", *options)
    assert right.status == 0 and "has no decode_head" in right.output
    after = weights_of(max((tmp_path / "c").glob("iter_*.pth")))
    assert all(torch.equal(after[f"backbone.{key}"], value) for key, value in backbone.items())


class Whole(nn.Module):
    """A backbone, a neck and a head, as a segmentor names them."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.backbone = MiTPlusPlus(SMALL)
        self.neck = nn.Conv2d(8, 8, 1)
        self.decode_head = nn.Conv2d(8, classes, 1)


@pytest.mark.parametrize("kept", ["decode_head.", "backbone.", "neck."])
def test_training_needs_a_body_and_may_lack_a_head(kept: str) -> None:
    whole = Whole()
    weights = {k: v for k, v in whole.state_dict().items() if k.startswith(kept)}
    with pytest.raises(InputError, match="is missing"):
        fit_weights(Whole(), weights, "w.pth", training=True)
    body = {k: v for k, v in whole.state_dict().items() if not k.startswith("decode_head.")}
    fitted = fit_weights(Whole(), body, "w.pth", training=True)
    assert fitted.notes == ["w.pth has no decode_head: it starts from random weights."]


def test_a_bare_body_is_known_under_a_bigger_head() -> None:
    """A body in timm's own layout is not renamed where the model's has those very keys."""
    timm = pytest.importorskip("timm")
    model = nn.Module()
    model.backbone = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0)
    model.decode_head = nn.Sequential(*(nn.Linear(2, 2) for _ in range(40)))
    bare = model.backbone.state_dict()
    assert len(bare) < len(model.state_dict()) / 2
    fitted = fit_weights(model, bare, "vit.pth", training=True)
    assert set(fitted.weights) == {f"backbone.{key}" for key in bare}


def test_heads_of_transformers_may_have_other_classes() -> None:
    """Their class embeddings have the classes in another dimension than the first."""
    heads = pytest.importorskip("mmtokmerge.models.heads")

    def model(classes: int) -> nn.Module:
        made = nn.Module()
        made.backbone = nn.Conv2d(16, 16, 1)
        made.decode_head = heads.SegmenterMaskTransformerHead(
            in_channels=16,
            num_layers=1,
            num_heads=2,
            embed_dims=16,
            num_classes=classes,
            channels=16,
        )
        return made

    fitted = fit_weights(model(9), model(5).state_dict(), "w.pth", training=True)
    assert "5" in fitted.notes[0] and "9" in fitted.notes[0]
    assert fitted.weights["decode_head.cls_emb"].shape == (1, 9, 16)
    assert any(key.startswith("backbone.") for key in fitted.weights)


def test_a_published_layout_is_known_though_a_key_is_the_models_own() -> None:
    """NVlabs's segmentors have an unused decode_head.conv_seg, timm's ViTs a cls_token."""
    from mmtokmerge.models.backbones import VisionTransformer

    timm = pytest.importorskip("timm")
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5).eval()
    own = VisionTransformer("t", img_size=64, final_norm=True).eval()
    own.load_state_dict(fit_weights(own, theirs.state_dict(), "timm.pth").weights)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_features(x)[:, 1:].transpose(1, 2).reshape(1, -1, 4, 4)
        torch.testing.assert_close(own(x)[0], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("where", ["model", "model.decode_head"])
def test_an_init_cfg_of_a_whole_model_is_checked(where: str, tmp_path: Path) -> None:
    torch.save({"x.weight": torch.zeros(2)}, tmp_path / "other.pth")
    config = write_config(tmp_path)
    result = run_tool(
        *("train.py", str(config), "--work-dir", str(tmp_path / "work"), "--cfg-options"),
        *(f"{where}.init_cfg.type=Pretrained",),
        f"{where}.init_cfg.checkpoint={tmp_path / 'other.pth'}",
    )
    assert result.status == 1
    assert "does not fit" in result.error
