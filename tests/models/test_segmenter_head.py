"""Segmenter's heads against mmseg's with the same weights, and on tokens that differ in number."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

heads = pytest.importorskip("mmseg.models.decode_heads", reason="needs MMSegmentation")

from mmengine.config import ConfigDict  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from token_samples import alone, alone_on_map, samples, token_features  # noqa: E402

from mmtokmerge.layers import TokenFeatures  # noqa: E402
from mmtokmerge.merging import TokenAssignment  # noqa: E402
from mmtokmerge.models.heads import (  # noqa: E402
    SegmenterLinearHead,
    SegmenterMaskTransformerHead,
)

WIDTH, CLASSES = 24, 5
MASK = dict(
    in_channels=WIDTH,
    channels=WIDTH,
    embed_dims=32,
    num_layers=2,
    num_heads=4,
    num_classes=CLASSES,
    dropout_ratio=0.0,
)
LINEAR = dict(in_channels=WIDTH, channels=WIDTH, num_classes=CLASSES)
FCN = dict(num_convs=0, kernel_size=1, concat_input=False)
GRIDS = [(5, 3), (1, 1), (1, 7)]


def shake(head: nn.Module) -> nn.Module:
    """Weights that nothing can hide behind: norms that scale, biases that shift."""
    torch.manual_seed(1)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return head


def mask_pair(
    proportional: bool = False, fused: bool = True, **kwargs: Any
) -> tuple[nn.Module, nn.Module]:
    settings = dict(MASK, drop_path_rate=0.0, **kwargs)
    theirs = shake(heads.SegmenterMaskTransformerHead(**settings))
    ours = SegmenterMaskTransformerHead(**settings, proportional=proportional, fused=fused)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def linear_pair(**kwargs: Any) -> tuple[nn.Module, nn.Module]:
    theirs = shake(heads.FCNHead(**LINEAR, **FCN, **kwargs))
    ours = SegmenterLinearHead(**LINEAR, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def build(kind: str, **kwargs: Any) -> nn.Module:
    ours = mask_pair if kind == "mask" else linear_pair
    return ours(**kwargs)[0].eval()


def unmerged(x: torch.Tensor) -> TokenFeatures:
    hw = (x.shape[2], x.shape[3])
    return TokenFeatures(x.flatten(2).mT, TokenAssignment.identity(hw[0] * hw[1]), hw)


@pytest.mark.parametrize("pair", [mask_pair, linear_pair])
def test_same_state_dict(pair: Any) -> None:
    ours, theirs = (head.state_dict() for head in pair())
    assert list(ours) == list(theirs)
    assert [v.shape for v in ours.values()] == [v.shape for v in theirs.values()]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("hw", GRIDS)
@pytest.mark.parametrize(
    "pair, kwargs",
    [
        (mask_pair, {}),
        (mask_pair, dict(qkv_bias=False, mlp_ratio=2)),
        (mask_pair, dict(act_cfg=dict(type="ReLU"))),
        (mask_pair, dict(norm_cfg=dict(type="LN", eps=1e-2))),
        (mask_pair, dict(fused=False)),
        (linear_pair, dict(dropout_ratio=0.0)),
        (linear_pair, dict(dropout_ratio=0.5)),
    ],
)
def test_equals_mmseg_where_nothing_is_merged(
    pair: Any, kwargs: dict[str, Any], hw: tuple[int, int], training: bool
) -> None:
    """Tokens and maps give mmseg's logits, with its channel dropout for the same seed."""
    ours, theirs = pair(**kwargs)
    ours.train(training), theirs.train(training)
    x = torch.randn(2, WIDTH, *hw)
    results = []
    for head, level in ((theirs, x), (ours, x), (ours, unmerged(x))):
        torch.manual_seed(3)
        results.append(head((torch.zeros(1), level)))
    for result in results[1:]:
        assert result.shape == (2, CLASSES, *hw)
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)


def test_gradients_equal_mmseg() -> None:
    ours, theirs = (head.double() for head in mask_pair())
    x = torch.randn(2, WIDTH, 3, 5, dtype=torch.float64)
    grads = []
    for head in (ours, theirs):
        level = x.clone().requires_grad_()
        head((level,)).square().sum().backward()
        grads.append([level.grad, *[p.grad for p in head.parameters()]])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


def test_initial_weights_are_mmsegs() -> None:
    torch.manual_seed(0)
    ours = SegmenterMaskTransformerHead(**MASK)
    ours.init_weights()
    assert 0 < ours.cls_emb.std() < 0.03
    for name, parameter in ours.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "in_proj" not in name:
            assert parameter.std() < 0.03, name


@pytest.mark.parametrize("kind", ["mask", "linear"])
def test_each_patch_takes_the_logits_of_its_token(kind: str) -> None:
    """By hand: tokens (a, b), patches a b b a; the head on a 1x2 map of a, b gives the logits."""
    head = build(kind)
    tokens = torch.randn(1, 2, WIDTH)
    groups = torch.tensor([[0, 1, 1, 0]])
    merged = TokenFeatures(tokens, TokenAssignment.from_groups(groups, 2), (2, 2))
    pair = head((tokens.mT.reshape(1, WIDTH, 1, 2),))[0, :, 0]  # (K, 2)
    expected = pair[:, [0, 1, 1, 0]].reshape(1, CLASSES, 2, 2)
    torch.testing.assert_close(head((merged,)), expected)


@pytest.mark.parametrize(
    "kind, kwargs", [("mask", {}), ("mask", dict(proportional=True)), ("linear", {})]
)
def test_images_of_a_batch_do_not_touch(kind: str, kwargs: dict[str, Any]) -> None:
    head = build(kind, **kwargs)
    features = token_features((4, 7), [28, 9, 1], WIDTH)
    together = head((features,))
    for image in range(3):
        single = head((alone(features, image),))
        torch.testing.assert_close(together[image : image + 1], single, rtol=1e-4, atol=1e-4)


def test_proportional_makes_equal_tokens_exact() -> None:
    """A token that stands for equal patches gives what the patches give; without, it does not."""
    off, on = build("mask"), build("mask", proportional=True)
    features = token_features((4, 7), [13, 5], WIDTH)
    spread = off((alone_on_map(features),))
    torch.testing.assert_close(on((features,)), spread, rtol=1e-4, atol=1e-4)
    assert (off((features,)) - spread).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["mask", "linear"])
@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_autocast(kind: str, training: bool) -> None:
    head = build(kind).train(training)
    features = token_features((4, 7), [20, 9], WIDTH)
    torch.manual_seed(0)
    exact = head((features,))
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = head((features,))
    assert rough.isfinite().all()
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize("kind", ["mask", "linear"])
def test_one_training_step(kind: str) -> None:
    """mmseg's losses, and a gradient in every parameter and token; none in rows of padding."""
    init_default_scope("mmseg")
    head = build(kind).train()
    features = token_features((4, 7), [20, 9], WIDTH)
    tokens = features.tokens.requires_grad_()
    label = torch.randint(CLASSES, (2, 32, 56))
    label[0, :9] = 255
    losses = head.loss((features,), samples(label), {})
    assert set(losses) == {"loss_ce", "acc_seg"}
    losses["loss_ce"].backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    real = features.assignment.sizes > 0
    assert (tokens.grad.abs().sum(-1) > 0).equal(real)


def test_whole_and_slide_inference() -> None:
    """Behind mmseg's own ViT, chosen by name, as mmseg's head."""
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    backbone = dict(type="VisionTransformer", img_size=(32, 32), patch_size=8)
    backbone.update(embed_dims=WIDTH, num_layers=1, num_heads=2, final_norm=True)
    model = dict(type="EncoderDecoder", backbone=backbone, test_cfg=dict(mode="whole"))
    ours = MODELS.build(
        dict(model, decode_head=dict(MASK, type="mmtokmerge.SegmenterMaskTransformerHead"))
    ).eval()
    theirs = MODELS.build(dict(model, decode_head=dict(MASK, type="SegmenterMaskTransformerHead")))
    theirs.eval().load_state_dict(shake(ours).state_dict())
    x = torch.randn(1, 3, 32, 72)
    for setting in (dict(mode="whole"), dict(mode="slide", crop_size=(32, 32), stride=(24, 24))):
        for each in (ours, theirs):
            each.test_cfg = ConfigDict(setting)
        a, b = (each.predict(x)[0] for each in (ours, theirs))
        assert a.seg_logits.data.shape == (CLASSES, 32, 72)
        torch.testing.assert_close(a.seg_logits.data, b.seg_logits.data, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "level, sentence",
    [
        (torch.zeros(2, 9, WIDTH), r"TokenFeatures or maps.*Tensor \(2, 9, 24\)"),
        ([torch.zeros(2, WIDTH, 2, 2), torch.zeros(2, WIDTH)], "TokenFeatures or maps.*a list"),
        (torch.zeros(2, WIDTH + 1, 2, 2), r"in_channels is 24.*has 25 channels"),
    ],
)
@pytest.mark.parametrize("kind", ["mask", "linear"])
def test_wrong_features_are_one_sentence(kind: str, level: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(kind)((level,))


@pytest.mark.parametrize("kind", ["mask", "linear"])
def test_wrong_levels_are_one_sentence(kind: str) -> None:
    x = torch.zeros(1, WIDTH, 2, 2)
    with pytest.raises(TypeError, match="a backbone's tuple of levels, got a Tensor"):
        build(kind)(x)
    with pytest.raises(ValueError, match=r"in_index asks for level 2, but the backbone gives 1"):
        build(kind, in_index=2)((x,))


@pytest.mark.parametrize(
    "head, kwargs, sentence",
    [
        (SegmenterMaskTransformerHead, dict(MASK, num_heads=3), r"num_heads=3 must.*embed_dims=32"),
        (SegmenterMaskTransformerHead, dict(MASK, num_fcs=3), "num_fcs must be 2"),
        (SegmenterMaskTransformerHead, dict(MASK, in_index=[0, 1]), r"one level.*in_index=\[0, 1"),
        (
            SegmenterLinearHead,
            dict(LINEAR, input_transform="resize_concat"),
            "one level.*'resize_concat'",
        ),
        (
            SegmenterLinearHead,
            dict(LINEAR, channels=12),
            "channels must be in_channels, 24, got 12",
        ),
        (SegmenterLinearHead, dict(LINEAR, norm_cfg=dict(type="BN")), "norm_cfg must be left out"),
    ],
)
def test_wrong_settings_are_one_sentence(head: Any, kwargs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        head(**copy.deepcopy(kwargs))
