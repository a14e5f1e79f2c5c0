"""Mask2Former's head: its scores, losses and matching, and that the system learns an image."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData

pytest.importorskip("mmseg")
pytest.importorskip("transformers")
from mmseg.structures import SegDataSample

from mmtokmerge.errors import InputError
from mmtokmerge.models.heads.mask2former_head import Mask2FormerHead, scores

SMALL: dict[str, Any] = dict(
    channels=64,
    num_queries=12,
    num_heads=4,
    feedforward_channels=64,
    encoder_layers=1,
    decoder_layers=2,
    num_points=256,
)


def build(**settings: Any) -> Mask2FormerHead:
    init_default_scope("mmseg")
    torch.manual_seed(0)
    return Mask2FormerHead(**{**SMALL, **dict(in_channels=[16] * 4, num_classes=5), **settings})


def maps(batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((16, 20), (8, 10), (4, 5), (2, 3))
    return tuple(torch.randn(batch, 16, *size, generator=generator) for size in sizes)


def labelled(labels: torch.Tensor) -> list[SegDataSample]:
    samples = []
    for each in labels:
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=each[None])
        samples.append(sample)
    return samples


def test_scores_are_the_sum_over_queries() -> None:
    classes, masks = torch.randn(1, 3, 5), torch.randn(1, 3, 2, 2)
    found = scores(classes, masks)
    assert found.shape == (1, 4, 2, 2)
    for c, y, x in itertools.product(range(4), range(2), range(2)):
        expected = sum(
            float(classes[0, q].softmax(0)[c]) * float(masks[0, q, y, x].sigmoid())
            for q in range(3)
        )
        assert float(found[0, c, y, x]) == pytest.approx(expected, rel=1e-5)


def test_what_is_predicted_has_the_images_size() -> None:
    head = build().eval()
    with torch.no_grad():
        assert head(maps()).shape == (2, 5, 16, 20)
        found = head.predict(maps(), [dict(img_shape=(61, 77), pad_shape=(64, 80))] * 2, None)
        assert found.shape == (2, 5, 64, 80)


def test_targets_leave_out_what_is_ignored() -> None:
    labels = torch.tensor([[0, 0, 255], [3, 255, 3]])
    masks, classes = build()._targets(labels)
    assert classes.tolist() == [0, 3]
    assert masks.tolist() == [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 1]]]


def test_every_parameter_learns_and_every_prediction_has_losses() -> None:
    head = build()
    labels = torch.randint(0, 5, (2, 64, 80), generator=torch.Generator().manual_seed(2))
    labels[:, :9] = 255
    losses = head.loss(maps(), labelled(labels), None)
    assert len(losses) == 3 * 3  # before the first layer, and after both
    sum(losses.values()).backward()
    missing = [name for name, p in head.named_parameters() if p.grad is None]
    assert missing == []
    weights = head.loss_weights
    assert weights == dict(loss_cross_entropy=2.0, loss_mask=5.0, loss_dice=5.0)


def test_the_last_predictions_loss_is_that_of_transformers() -> None:
    head = build().eval()
    labels = torch.zeros(1, 64, 80, dtype=torch.long)
    labels[:, :, 40:] = 3
    inputs = maps(1)
    torch.manual_seed(5)  # points are drawn
    found = head.loss(inputs, labelled(labels), None)
    masks, classes = head._targets(labels[0])
    torch.manual_seed(5)
    said = head.queries(inputs)
    for number, each in enumerate(said):
        terms = head.criterion(each.masks, each.classes, [masks], [classes])
        own = "" if number == 2 else f"d{number}."
        for key, value in terms.items():
            expected = value * head.loss_weights[key]
            torch.testing.assert_close(found[f"{own}{key}"], expected)


def test_images_without_labels_train() -> None:
    head = build()
    nothing = torch.full((2, 64, 80), 255)
    losses = head.loss(maps(), labelled(nothing), None)
    total = sum(losses.values())
    total.backward()
    assert float(total) == 0
    assert all(p.grad is not None for p in head.class_predictor.parameters())
    nothing[1] = 2
    assert all(bool(v.isfinite()) for v in head.loss(maps(), labelled(nothing), None).values())


def test_it_learns_an_image() -> None:
    head = build().train()
    labels = torch.zeros(1, 64, 80, dtype=torch.long)
    labels[:, 20:40, 30:60], labels[:, 44:] = 2, 4
    inputs = maps(1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(head.loss(inputs, labelled(labels), None).values()).backward()
        optimizer.step()
    head.eval()
    with torch.no_grad():
        found = head.predict(inputs, [dict(img_shape=(64, 80))], None).argmax(1)
    assert float((found == labels).float().mean()) > 0.9


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(channels=96), "channels=96 must be a multiple of 64"),
        (dict(loss_decode=dict(type="CrossEntropyLoss")), "loss_decode does nothing"),
        (dict(num_queries=0), "num_queries"),
        (dict(dice_weight=-1), "dice_weight"),
    ],
)
def test_settings_that_do_not_go_are_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build(**settings)


def test_a_window_has_its_own_size() -> None:
    """mmseg's sliding mode leaves the whole image's ``pad_shape`` beside the window's size."""
    head = build().eval()
    meta = dict(img_shape=torch.Size((64, 80)), pad_shape=(512, 512))
    with torch.no_grad():
        assert head.predict(maps(), [meta] * 2, None).shape == (2, 5, 64, 80)
