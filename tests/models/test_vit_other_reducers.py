"""PiToMe, EViT and ELViT's clustering in the plain ViT."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from tracing import ended, follow

from mmtokmerge.errors import InputError
from mmtokmerge.layers.reducers import EViT
from mmtokmerge.models import VisionTransformer
from mmtokmerge.visualization.describe import describe_reducer

ARCH = dict(embed_dims=32, num_layers=4, num_heads=2)
SIZE = (112, 80)  # 7x5 patches
REDUCERS: dict[str, dict[str, Any]] = {
    "pitome": dict(type="mmtokmerge.PiToMe", layer=[1, 2, 3], num_merged=4),
    "pitome by rate": dict(type="mmtokmerge.PiToMe", layer=2, rate=0.4, margin=0.2),
    "evit": dict(type="mmtokmerge.EViT", layer=[1, 3], keep=0.6),
    "elvit": dict(type="mmtokmerge.TokenClustering", layer=2, keep=0.25),
    "mpm": dict(type="mmtokmerge.MutualPairMerging", layer=[1, 3], position="after"),
    "ailurus": dict(type="mmtokmerge.DensityPeaks", layer=2, keep=0.5),
    "toma": dict(type="mmtokmerge.FacilityLocation", layer=2, keep=0.5, tile=4),
    "cubist": dict(type="mmtokmerge.GridMerging", layer=1, keep=0.5, operation="max"),
}


def build(*reducers: dict[str, Any], **settings: Any) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(ARCH, img_size=SIZE, reducers=list(reducers), **settings)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3 + (parameter == 1)
    return follow(model.eval())


@pytest.mark.parametrize("name", REDUCERS)
def test_maps_are_whole_and_images_alone(name: str) -> None:
    model = build(REDUCERS[name])
    torch.manual_seed(1)
    x = torch.randn(3, 3, *SIZE)
    with torch.no_grad():
        (together,) = model(x)
        left = ended(model).assignment
        assert together.shape == (3, 32, 7, 5)
        assert left.num_groups < 35
        for row in range(3):
            alone = model(x[row : row + 1])[0][0]
            torch.testing.assert_close(alone, together[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", REDUCERS)
def test_it_trains(name: str) -> None:
    model = build(REDUCERS[name]).train()
    (out,) = model(torch.randn(2, 3, *SIZE))
    out.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("pitome", [35, 31, 27, 23]),
        ("evit", [35, 22, 22, 15]),
        ("ailurus", [35, 35, 18, 18]),
        ("toma", [35, 35, 18, 18]),
        ("cubist", [35, 20, 20, 20]),
    ],
)
def test_how_many_are_left(name: str, counts: list[int]) -> None:
    model = build(REDUCERS[name])
    seen = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1] - 1))
    model(torch.randn(1, 3, *SIZE))
    assert seen == counts


def attention_of_class(model: VisionTransformer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens between the halves of layer 1, and what its class token attends to, by the formula."""
    tokens, _ = model.embed(x)
    layer = model.layers[0]
    weight, bias = layer.attn.attn.in_proj_weight, layer.attn.attn.in_proj_bias
    q, k, _ = (layer.ln1(tokens) @ weight.mT + bias).chunk(3, -1)
    heads = [
        (q[:, :1, part] @ k[..., part].mT / math.sqrt(16)).softmax(-1)
        for part in (slice(0, 16), slice(16, 32))
    ]
    return tokens + layer.attn(layer.ln1(tokens))[0], torch.stack(heads).mean(0)[:, 0, 1:]


def test_evit_keeps_what_the_class_token_attends_to() -> None:
    model = build(dict(REDUCERS["evit"], layer=1))
    x = torch.randn(2, 3, *SIZE)
    seen = []
    model.layers[0].ln2.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        tokens, scores = attention_of_class(model, x)
        model(x)
    (fed,) = seen
    assert fed.shape[1] == 1 + 21 + 1
    for row in range(2):
        order = scores[row].argsort(descending=True)
        stays, rest = sorted(order[:21].tolist()), order[21:]
        weight = scores[row, rest] / scores[row, rest].sum()
        fused = (weight[:, None] * tokens[row, 1 + rest]).sum(0)
        expected = [tokens[row, 1 + token] for token in stays]
        expected.insert(sum(token < int(rest.min()) for token in stays), fused)
        torch.testing.assert_close(fed[row, 1:], torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_a_reducer_says_what_it_does() -> None:
    words = {
        name: describe_reducer(build(settings).reducers[0]) for name, settings in REDUCERS.items()
    }
    assert words == {
        "pitome": "4 tokens a layer, keys compared",
        "pitome by rate": "40% of a layer's tokens, keys compared",
        "evit": "60% left, attention of the class token compared",
        "elvit": "25% left",
        "mpm": "after the MLP",
        "ailurus": "50% left",
        "toma": "50% left",
        "cubist": "50% left, largest values",
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(REDUCERS["evit"], keep=0), "keep must be above 0"),
        (dict(REDUCERS["evit"], feature="K"), "EViT takes neither feature nor operation"),
        (dict(REDUCERS["elvit"], temperature=0.0), "temperature must be above 0"),
        (dict(REDUCERS["elvit"], iterations=-1), "iterations must be"),
        (dict(REDUCERS["pitome"], margin=2), "margin must be from -1 to 1"),
    ],
)
def test_wrong_settings_are_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises((InputError, TypeError), match=sentence):
        build(settings)


def test_what_only_the_forward_can_know_is_a_sentence() -> None:
    x = torch.randn(1, 3, *SIZE)
    with pytest.raises(InputError, match="EViT asks what the class token attends to"):
        build(REDUCERS["evit"], with_cls_token=False)(x)
    with pytest.raises(InputError, match="TokenClustering must be the first to merge"):
        build(dict(REDUCERS["pitome"], layer=1), REDUCERS["elvit"])(x)
    assert EViT(1.0, 1).num_groups(7, (7, 1)) == 7
