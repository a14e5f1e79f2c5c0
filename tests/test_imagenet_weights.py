"""A policy network begins with timm's ImageNet weights, or with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg", reason="needs MMSegmentation")
pytest.importorskip("timm", reason="needs timm")

import timm
from mmengine.registry import DefaultScope

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.imagenet import load_imagenet
from mmtokmerge.registry import MODELS

CUT = dict(out_indices=(3,), feature_cls="getter")


def build(name: str = "efficientnet_lite0", pretrained: Any = True, **backbone: Any) -> Any:
    settings = dict(type="mmseg.TIMMBackbone", model_name=name, features_only=True)
    network = dict(
        type="mmtokmerge.PolicyNetwork",
        backbone={**settings, "pretrained": False, "out_indices": (4,), **backbone},
        in_channels=112 if "feature_cls" in backbone else 320,
        pretrained=pretrained,
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(network)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """timm's file of EfficientNet-Lite0, with random numbers, in the folder that is named."""
    torch.manual_seed(1)
    path = tmp_path / "efficientnet_lite0_ra-37913777.pth"
    torch.save(timm.create_model("efficientnet_lite0").state_dict(), path)
    monkeypatch.setenv("MMTOKMERGE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return path


@pytest.mark.parametrize("backbone", [{}, CUT])
def test_the_whole_and_the_cut_network_get_them(backbone: dict[str, Any], weights: Path) -> None:
    torch.manual_seed(0)
    network = build(**backbone)
    network.init_weights()
    published = torch.load(weights)
    own = network.backbone.timm_model.state_dict()
    assert len(own) > 190
    for key, value in own.items():
        assert torch.equal(value, published[key.removeprefix("model.")]), key


def test_a_network_that_is_only_used_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMTOKMERGE_WEIGHTS", str(tmp_path))
    assert build().pretrained  # no file there, and none asked for


def test_from_scratch_where_it_is_said(weights: Path) -> None:
    weights.unlink()
    build(pretrained=False).init_weights()


def test_what_cannot_be_had_is_a_sentence(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = torch.load(weights)
    published.pop("blocks.0.0.conv_dw.weight")
    torch.save(published, weights)
    with pytest.raises(InputError, match=r"does not hold blocks.0.0.conv_dw.weight of efficient"):
        build().init_weights()
    weights.unlink()

    def fail(url: str, *args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError, match=r"could not be fetched .* set MMTOKMERGE_WEIGHTS"):
        build().init_weights()
    with pytest.raises(InputError, match="takes a backbone of timm"):
        load_imagenet(None, None)
    with pytest.raises(InputError, match="publishes no file of weights for no_such_network"):
        load_imagenet(torch.nn.Identity(), "no_such_network")
    with pytest.raises((InputError, TypeError), match="pretrained must be"):
        build(pretrained="yes")
