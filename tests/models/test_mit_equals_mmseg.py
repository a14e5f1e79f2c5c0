"""MiT++ without merging is mmseg's encoder: parameters, features and gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from mmtokmerge.models import MiTPlusPlus

mit = pytest.importorskip("mmseg.models.backbones.mit", reason="needs MMSegmentation")

LAYERS = {
    "b0": [2, 2, 2, 2],
    "b1": [2, 2, 2, 2],
    "b2": [3, 4, 6, 3],
    "b3": [3, 4, 18, 3],
    "b4": [3, 8, 27, 3],
    "b5": [3, 6, 40, 3],
}


def stock(arch: str, **kwargs: object) -> nn.Module:
    return mit.MixVisionTransformer(
        embed_dims=32 if arch == "b0" else 64,
        num_layers=LAYERS[arch],
        num_heads=[1, 2, 5, 8],
        patch_sizes=[7, 3, 3, 3],
        sr_ratios=[8, 4, 2, 1],
        mlp_ratio=4,
        qkv_bias=True,
        **kwargs,
    )


def randomise(model: nn.Module) -> nn.Module:
    """Give every parameter a value of its own, biases and norms too."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        scale = 0.2 if parameter.dim() == 1 else fan_in**-0.5
        parameter.data = noise * scale + (1.0 if is_norm else 0.0)
    return model


@pytest.mark.parametrize("arch", sorted(LAYERS))
@pytest.mark.parametrize("merging", ["none", "hq"])
def test_state_dict_is_mmsegs(arch: str, merging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # mmseg reads its drop path rates from a tensor, which the meta device has no values for.
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        ours = MiTPlusPlus(arch, merging=merging).state_dict()
        theirs = stock(arch).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("size", "batch"), [((360, 480), 1), ((97, 161), 2), ((64, 64), 2), ((97, 161), 1)]
)
def test_features_equal(size: tuple[int, int], batch: int, fused: bool) -> None:
    theirs = randomise(stock("b0")).eval()
    ours = MiTPlusPlus("b0", fused_attention=fused).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(batch, 3, *size)
    with torch.no_grad():
        features, expected = ours(x), theirs(x)
    assert len(features) == len(expected) == 4
    for a, b in zip(features, expected):
        assert a.shape == b.shape
        assert (a - b).norm() / b.norm() < 1e-5
        assert (a - b).abs().max() / b.abs().max() < 1e-5


def test_gradients_equal() -> None:
    theirs = randomise(stock("b0")).double()
    ours = MiTPlusPlus("b0").double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 33, 65, dtype=torch.float64)
    weights = [torch.randn_like(f) for f in theirs(x)]
    for model in (ours, theirs):
        sum((w * f).sum() for w, f in zip(weights, model(x))).backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, msg=name)


def test_initial_weights_have_mmsegs_spread() -> None:
    ours, theirs = MiTPlusPlus("b0"), stock("b0")
    torch.manual_seed(0)
    ours.init_weights()
    theirs.init_weights()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        other = wanted[name]
        if other.std(unbiased=False) == 0:
            assert torch.equal(parameter, other), name
        elif other.numel() > 500:
            assert parameter.std().item() == pytest.approx(other.std().item(), rel=0.15), name


def test_fused_stock_equals_stock() -> None:
    """The second baseline: same state dict, same features, without asking for the weights."""
    from mmtokmerge.models import FusedMixVisionTransformer

    theirs = randomise(stock("b0")).eval()
    fused = FusedMixVisionTransformer(
        embed_dims=32,
        num_layers=LAYERS["b0"],
        num_heads=[1, 2, 5, 8],
        sr_ratios=[8, 4, 2, 1],
        qkv_bias=True,
    ).eval()
    assert list(fused.state_dict()) == list(theirs.state_dict())
    fused.load_state_dict(theirs.state_dict())
    asked: list[bool] = []
    for module in fused.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_hook(lambda m, a, out: asked.append(out[1] is not None))
    x = torch.randn(2, 3, 97, 161)
    with torch.no_grad():
        for a, b in zip(fused(x), theirs(x)):
            assert (a - b).norm() / b.norm() < 1e-5
    assert len(asked) == 8 and not any(asked)
    fused.train()
    sum(f.square().sum() for f in fused(x)).backward()
    assert all(p.grad is not None for p in fused.parameters())
