"""SegformerHead against mmseg's with the same weights: logits, gradients and state dict."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

heads = pytest.importorskip("mmseg.models.decode_heads", reason="needs MMSegmentation")

from mmtokmerge.layers.fusion import fuse_scales  # noqa: E402
from mmtokmerge.models import SegformerHead  # noqa: E402

CHANNELS = [8, 16, 40, 64]


def settings(**kwargs: Any) -> dict[str, Any]:
    base: dict[str, Any] = dict(
        in_channels=CHANNELS,
        in_index=[0, 1, 2, 3],
        channels=24,
        num_classes=5,
        norm_cfg=dict(type="BN"),
        align_corners=False,
        dropout_ratio=0.0,
    )
    return {**base, **kwargs}


def pair(**kwargs: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    theirs = heads.SegformerHead(**settings(**kwargs))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    ours = SegformerHead(**settings(**kwargs))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def maps(height: int, width: int, batch: int = 2) -> list[torch.Tensor]:
    sizes = [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, sizes)]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_same_state_dict() -> None:
    ours, theirs = pair()
    assert list(ours.state_dict()) == list(theirs.state_dict())


VARIANTS = [
    dict(align_corners=False),
    dict(align_corners=True),
    # mmseg passes align_corners on, which torch's nearest takes only as None
    dict(interpolate_mode="nearest", align_corners=None),
    dict(norm_cfg=None),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(64, 96), (97, 161), (17, 9)])
def test_logits_equal_in_evaluation(variant: dict[str, Any], size: tuple[int, int]) -> None:
    ours, theirs = (head.eval() for head in pair(**variant))
    features = maps(*size)
    with torch.no_grad():
        logits, expected = ours(features), theirs(features)
    assert logits.shape == expected.shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))
    assert relative(logits, expected) < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_step_equals(variant: dict[str, Any]) -> None:
    """Batch statistics, running statistics and all gradients, the features' too."""
    ours, theirs = (head.train().double() for head in pair(**variant))
    features = [f.double() for f in maps(72, 104)]
    grads = []
    for head in (ours, theirs):
        inputs = [f.clone().requires_grad_() for f in features]
        out = head(inputs)
        out.square().sum().backward()
        grads.append([out, *[f.grad for f in inputs], *[p.grad for p in head.parameters()]])
    for a, b in zip(*grads):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    for a, b in zip(ours.buffers(), theirs.buffers()):
        torch.testing.assert_close(a, b)


def test_training_logits_equal_in_single_precision() -> None:
    ours, theirs = pair()
    features = maps(72, 104)
    assert relative(ours(features), theirs(features)) < 1e-4


def test_nearest_needs_no_other_setting() -> None:
    """The configs' align_corners=False goes with 'nearest' too."""
    ours, theirs = pair(interpolate_mode="nearest", align_corners=None)
    plain = SegformerHead(**settings(interpolate_mode="nearest")).eval()
    plain.load_state_dict(ours.state_dict())
    features = maps(64, 96)
    assert relative(plain(features), theirs.eval()(features)) < 1e-4


def test_dropout_of_training_is_kept() -> None:
    ours, _ = pair(dropout_ratio=0.5)
    features = maps(64, 64)
    assert not torch.equal(ours(features), ours(features))
    ours.eval()
    assert torch.equal(ours(features), ours(features))


def test_fusion_by_hand() -> None:
    """One pixel of 2 and one of 5, weights 3 and 10, bias 1: 3 * 2 + 10 * 5 + 1 = 57."""
    fine, coarse = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 1, 1), 5.0)
    weight = torch.tensor([3.0, 10.0]).view(1, 2, 1, 1)
    out = fuse_scales([fine, coarse], weight, torch.tensor([1.0]))
    assert torch.equal(out, torch.full((1, 1, 2, 2), 57.0))


def test_linear_projections_have_a_bias_and_no_norm() -> None:
    """The original SegFormer's: what its published weights hold."""
    head = SegformerHead(**settings(projection="linear")).eval()
    names = {name for name in head.state_dict() if name.startswith("convs.")}
    assert names == {f"convs.{i}.conv.{kind}" for i in range(4) for kind in ("weight", "bias")}
    features = maps(64, 64)
    projected = [conv.conv(f) for conv, f in zip(head.convs, features)]
    up = [
        nn.functional.interpolate(p, features[0].shape[2:], mode="bilinear", align_corners=False)
        for p in projected
    ]
    expected = head.cls_seg(head.fusion_conv(torch.cat(up, 1)))
    assert relative(head(features), expected) < 1e-4


def test_unknown_settings_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"projection='mlp'.*'conv', 'linear'"):
        SegformerHead(**settings(projection="mlp"))
    with pytest.raises(ValueError, match=r"interpolate_mode='cubic'.*'bilinear'.*'nearest'"):
        SegformerHead(**settings(interpolate_mode="cubic"))


def test_a_copy_is_independent() -> None:
    ours, _ = pair()
    other = copy.deepcopy(ours).eval()
    features = maps(64, 64)
    before = other(features)
    with torch.no_grad():
        ours.fusion_conv.conv.weight.zero_()
    assert torch.equal(other(features), before)
