"""SegViT's head against the formulas written out, its losses against loops, and odd batches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("mmseg.models.decode_heads", reason="needs MMSegmentation")

from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from token_samples import alone, alone_on_map, samples, token_features

from mmtokmerge.layers import TokenFeatures
from mmtokmerge.layers.token_decoder import AttentionToMask
from mmtokmerge.models.heads import ATMHead
from mmtokmerge.models.losses import ATMLoss, dice_loss, focal_loss

WIDTHS, CLASSES, GRID = [24, 20, 16], 5, (4, 7)
HEAD = dict(in_channels=WIDTHS, in_index=[0, 1, 2], channels=32, num_classes=CLASSES, num_heads=4)


@pytest.fixture(autouse=True)
def mmseg_scope() -> None:
    init_default_scope("mmseg")
    torch.manual_seed(0)


def shake(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def build(**kwargs: Any) -> ATMHead:
    return shake(ATMHead(**{**HEAD, **kwargs})).eval()


def levels(*counts: list[int]) -> tuple[TokenFeatures, ...]:
    return tuple(token_features(GRID, count, width) for count, width in zip(counts, WIDTHS))


def plain_masks(layer: AttentionToMask, classes: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """SegViT's attention-to-mask with every head's similarity written out, one image at a time."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        similarity, values = [], []
        for a, b, c in zip(*(x.chunk(layer.num_heads, dim=1) for x in (q, k, v))):
            similarity.append(a @ b.T / a.shape[1] ** 0.5)  # (K, M)
            values.append(similarity[-1].softmax(1) @ c)
        return torch.cat(values, 1), torch.stack(similarity).mean(0)

    own = layer.self_attn.attn
    qkv = (classes @ own.in_proj_weight.T + own.in_proj_bias).chunk(3, dim=1)
    classes = layer.norm1(classes + own.out_proj(attention(*qkv)[0]))
    k, v = layer.kv_proj(tokens).chunk(2, dim=1)
    y, masks = attention(layer.q_proj(classes), k, v)
    classes = layer.norm2(classes + layer.out_proj(y))
    return layer.norm3(classes + layer.ffn.layers(classes)), masks


def plain_forward(head: ATMHead, features: Any, image: int) -> list[tuple[Tensor, Tensor]]:
    """The cascade of one image without padding, deepest level first."""
    classes, total, out = head.class_embed[0], torch.zeros(CLASSES, *GRID), []
    for i in reversed(range(len(features))):
        single = alone(features[i], image)
        tokens = head.projections[i](single.tokens[0])
        for layer in head.levels[i]:
            classes, masks = plain_masks(layer, classes, tokens)
        patches = masks[:, single.assignment.groups[0]]  # (K, N)
        total = total + patches.reshape(CLASSES, *GRID)
        out.append((head.classify(classes), total))
    return out


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_equals_the_formulas(num_layers: int, fused: bool) -> None:
    """Each level merged differently, padded rows filled with large numbers."""
    head = build(num_layers=num_layers, fused=fused)
    features = levels([28, 28, 28], [20, 9, 28], [13, 5, 1])
    results, seg = head.forward_levels(features), head(features)
    assert len(results) == 3 and seg.shape == (3, CLASSES, *GRID)
    for image in range(3):
        expected = plain_forward(head, features, image)
        for (classes, masks), (own_classes, own_masks) in zip(results, expected):
            torch.testing.assert_close(classes[image], own_classes, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(masks[image], own_masks, rtol=1e-4, atol=1e-4)
        chances, masks = expected[-1][0].softmax(1)[:, :CLASSES], expected[-1][1].sigmoid()
        by_hand = sum(chances[q][:, None, None] * masks[q] for q in range(CLASSES))
        torch.testing.assert_close(seg[image], by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("proportional", [False, True])
def test_images_of_a_batch_do_not_touch(proportional: bool) -> None:
    head = build(proportional=proportional)
    features = levels([28, 28, 28], [20, 9, 28], [13, 5, 1])
    together = head(features)
    for image in range(3):
        single = head(tuple(alone(level, image) for level in features))
        torch.testing.assert_close(together[image : image + 1], single, rtol=1e-4, atol=1e-4)


def test_proportional_makes_equal_tokens_exact() -> None:
    """A token that stands for equal patches gives what the patches give; without, it does not."""
    on, off = build(proportional=True), build()
    off.load_state_dict(on.state_dict())
    features = levels([13, 5], [13, 5], [9, 3])
    spread = off.forward_levels(tuple(map(alone_on_map, features)))
    merged, without = on.forward_levels(features), off.forward_levels(features)
    for (classes, masks), (own_classes, own_masks) in zip(merged, spread):
        torch.testing.assert_close(classes, own_classes, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(masks, own_masks, rtol=1e-4, atol=1e-4)
    assert (without[-1][0] - spread[-1][0]).abs().max() > 1e-2


def test_maps_of_a_pyramid_are_added_on_the_largest_grid() -> None:
    head = build()
    sizes = [(8, 12), (4, 6), (2, 3)]
    maps = tuple(torch.randn(2, width, *size) for width, size in zip(WIDTHS, sizes))
    (_, deep), *_, (_, last) = head.forward_levels(maps)
    assert deep.shape == last.shape == (2, CLASSES, 8, 12)
    small = maps[2].flatten(2).mT
    _, masks = head.levels[2][0](head.class_embed.expand(2, -1, -1), head.projections[2](small))
    up = F.interpolate(masks.mT.unflatten(2, (2, 3)), (8, 12), mode="bilinear")
    torch.testing.assert_close(deep, up)


def plain_losses(
    out: list[tuple[Tensor, Tensor]], label: Tensor, loss: ATMLoss
) -> dict[str, Tensor]:
    """Loops over images and classes; focal and dice pixel sums over known pixels alone."""
    sums: dict[str, Tensor] = {}
    for i, (class_logits, mask_logits) in enumerate(out, 1):
        focal = dice = entropy = weights = count = torch.zeros(())
        for image in range(len(label)):
            known = label[image] != 255
            if not known.any():
                continue
            up = F.interpolate(mask_logits[image][None], label.shape[1:], mode="bilinear")[0]
            for k in range(CLASSES):
                is_there = bool((label[image] == k).any())
                weight, target = (1.0, k) if is_there else (loss.no_object_weight, CLASSES)
                entropy = entropy - weight * class_logits[image, k].log_softmax(0)[target]
                weights = weights + weight
                if not is_there:
                    continue
                p, t = up[k][known].sigmoid(), (label[image] == k)[known].float()
                right = t * p + (1 - t) * (1 - p)
                alpha = t * loss.alpha + (1 - t) * (1 - loss.alpha)
                focal = focal - (alpha * (1 - right) ** loss.gamma * right.log()).mean()
                dice = dice + 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
                count = count + 1
        sums[f"loss_class_{i}"] = loss.class_weight * entropy / weights
        sums[f"loss_focal_{i}"] = loss.focal_weight * focal / count
        sums[f"loss_dice_{i}"] = loss.dice_weight * dice / count
    return sums


@pytest.mark.parametrize(
    "kwargs", [{}, dict(class_weight=2.0, focal_weight=3.0, no_object_weight=0.5, gamma=1.0)]
)
def test_losses_equal_loops(kwargs: dict[str, float]) -> None:
    """Three images: one with some pixels unlabelled, one with all, one whole."""
    loss = ATMLoss(**kwargs)
    label = torch.randint(3, (3, 13, 9))
    label[2] = torch.randint(2, 5, (13, 9))
    label[0, :4], label[1] = 255, 255
    out = [(torch.randn(3, CLASSES, CLASSES + 1), torch.randn(3, CLASSES, 4, 3)) for _ in range(2)]
    losses, expected = loss(out, label), plain_losses(out, label, loss)
    assert set(losses) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-5, atol=1e-6)


def test_the_papers_weights_are_the_defaults() -> None:
    loss = ATMLoss()
    weights = (loss.class_weight, loss.focal_weight, loss.dice_weight, loss.no_object_weight)
    assert weights == (1.0, 20.0, 1.0, 0.1)


def test_mask_losses_by_hand() -> None:
    """Logit 0 is chance 1/2: focal 1/4 * 1/4 * ln 2 inside, 3/4 * 1/4 * ln 2 outside."""
    logits, targets = torch.zeros(1, 3), torch.tensor([[True, False, False]])
    known = torch.tensor([[True, True, False]])
    ln2 = torch.tensor(2.0).log()
    torch.testing.assert_close(focal_loss(logits, targets, known)[0], ln2 * (1 + 3) / 16 / 2)
    torch.testing.assert_close(dice_loss(logits, targets, known)[0], torch.tensor(1 - 2 / 3))


def test_images_without_any_label_cost_nothing() -> None:
    """Nothing is known of them: no loss and a zero gradient, not NaN."""
    head = build().train()
    features = levels([28, 28], [20, 9], [13, 5])
    losses = head.loss(features, samples(torch.full((2, 32, 56), 255)), {})
    total = sum(value for key, value in losses.items() if "loss" in key)
    assert total.item() == 0
    total.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name


def test_an_unlabelled_image_changes_no_loss() -> None:
    head = build()
    features = levels([28, 28], [20, 9], [13, 5])
    label = torch.randint(CLASSES, (2, 32, 56))
    label[1] = 255
    both = head.loss(features, samples(label), {})
    single = head.loss(tuple(alone(x, 0) for x in features), samples(label[:1]), {})
    for key in single:
        torch.testing.assert_close(both[key], single[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
def test_one_training_step(autocast: bool) -> None:
    """A gradient in every parameter and every token, none in rows of padding."""
    head = build().train()
    features = levels([28, 28], [20, 9], [13, 5])
    for level in features:
        level.tokens.requires_grad_()
    label = torch.randint(CLASSES, (2, 32, 56))
    label[0, :9] = 255
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = head.loss(features, samples(label), {})
    names = {f"loss_{kind}_{i}" for kind in ("class", "focal", "dice") for i in (1, 2, 3)}
    assert set(losses) == names | {"acc_seg"}
    assert 0 <= float(losses["acc_seg"]) <= 100
    sum(losses[name] for name in names).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    for level in features:
        real = level.assignment.sizes > 0
        assert (level.tokens.grad.abs().sum(-1) > 0).equal(real)


def test_bfloat16_autocast_in_evaluation() -> None:
    head = build()
    features = levels([28, 28], [20, 9], [13, 5])
    exact = head(features)
    with torch.autocast("cpu", torch.bfloat16):
        rough = head(features)
    assert rough.isfinite().all()
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_fresh_weights_learn_an_image() -> None:
    """From its own initialisation, 25 steps on one image whose tokens tell the classes apart."""
    head = ATMHead(**{**HEAD, "in_channels": [CLASSES] * 3, "dropout_ratio": 0.0}).train()
    head.init_weights()
    label = torch.randint(CLASSES, (1, *GRID))
    maps = (F.one_hot(label, CLASSES).permute(0, 3, 1, 2).float(),) * 3
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
    for _ in range(25):
        losses = head.loss(maps, samples(label), {})
        optimizer.zero_grad()
        sum(value for key, value in losses.items() if "loss" in key).backward()
        optimizer.step()
    assert float(losses["acc_seg"]) == 100


def test_whole_and_slide_inference() -> None:
    """Behind mmseg's own ViT, chosen by name: scores of the image's size, the masks upsampled."""
    from mmseg.registry import MODELS

    backbone = dict(type="VisionTransformer", img_size=(32, 32), patch_size=8, out_indices=[0, 1])
    backbone.update(embed_dims=24, num_layers=2, num_heads=2)
    own = dict(HEAD, type="mmtokmerge.ATMHead", in_channels=[24, 24], in_index=[0, 1])
    own.update(input_transform="multiple_select")
    model = MODELS.build(
        dict(type="EncoderDecoder", backbone=backbone, decode_head=own, test_cfg=dict(mode="whole"))
    )
    shake(model.eval()).test_cfg = ConfigDict(mode="whole")
    x = torch.randn(1, 3, 32, 32)
    whole = model.predict(x)[0].seg_logits.data
    with torch.no_grad():
        classes, masks = model.decode_head.forward_levels(model.backbone(x))[-1]
    up = F.interpolate(masks, (32, 32), mode="bilinear").sigmoid()
    expected = torch.einsum("bqc,bqhw->bchw", classes.softmax(-1)[..., :-1], up)[0]
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
    model.test_cfg = ConfigDict(mode="slide", crop_size=(32, 32), stride=(24, 24))
    torch.testing.assert_close(model.predict(x)[0].seg_logits.data, whole)
    assert model.predict(torch.randn(1, 3, 40, 72))[0].seg_logits.data.shape == (CLASSES, 40, 72)


@pytest.mark.parametrize(
    "features, sentence",
    [
        ([torch.zeros(1, w, 2, 2) for w in (24, 20)], "asks for level 2, but the backbone gives 2"),
        ([torch.zeros(1, w, 2, 2) for w in (24, 20, 8)], "in_channels is 16.*level 2 has 8"),
        ([torch.zeros(1, 24, 2, 2), "map", None], "level 1 is a str"),
        (torch.zeros(1, 24, 2, 2), "a backbone's tuple of levels, got a Tensor"),
    ],
)
def test_wrong_features_are_one_sentence(features: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()(features)


def test_a_label_that_is_no_class_is_one_sentence() -> None:
    label = torch.full((2, 32, 56), CLASSES)
    with pytest.raises(ValueError, match=r"a label has the number 5.*num_classes is 5"):
        build().loss(levels([28, 28], [20, 9], [13, 5]), samples(label), {})


@pytest.mark.parametrize(
    "kwargs, sentence",
    [
        (dict(in_channels=[24, 20]), r"lists of one length.*\[24, 20\] and \[0, 1, 2\]"),
        (dict(in_channels=24), "lists of one length"),
        (dict(num_heads=5), "num_heads=5 must divide channels=32"),
        (dict(num_layers=0), "num_layers must be at least 1, got 0"),
        (dict(input_transform="resize_concat"), "input_transform must be 'multiple_select'"),
        (dict(loss_decode=dict(type="DiceLoss")), "must be of type mmtokmerge.ATMLoss"),
        (dict(loss_decode=dict(type="mmtokmerge.ATMLoss", dice_weight=-1.0)), "dice_weight must"),
        (dict(norm_cfg=dict(type="BN")), "norm_cfg is unknown to ATMHead"),
    ],
)
def test_wrong_settings_are_one_sentence(kwargs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ATMHead(**copy.deepcopy({**HEAD, **kwargs}))
