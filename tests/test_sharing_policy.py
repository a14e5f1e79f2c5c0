"""CTS's policy: targets against loops over cells, metric by hand, network end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mmseg", reason="needs MMSegmentation")
pytest.importorskip("timm", reason="needs timm")

from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmtokmerge.datasets.transforms.sharing_targets import GenerateSharingTargets, sharing_targets
from mmtokmerge.evaluation import SharingPrecision
from mmtokmerge.models import PolicyNetwork
from mmtokmerge.registry import MODELS

BACKBONE = dict(
    type="mmseg.TIMMBackbone",
    model_name="efficientnet_lite0",
    features_only=True,
    pretrained=False,
    out_indices=(4,),
)


def by_loops(label: np.ndarray, cell: int, border: str) -> list[list[int]]:
    rows = []
    for top in range(0, label.shape[0], cell):
        row = []
        for left in range(0, label.shape[1], cell):
            kinds = set(label[top : top + cell, left : left + cell].flatten().tolist())
            classes = kinds - {255}
            if len(classes) > 1:
                row.append(0)
            elif classes and 255 in kinds:
                last_row, last_column = top + cell >= label.shape[0], left + cell >= label.shape[1]
                on_edge = top == 0 or left == 0 or last_row or last_column
                leaves_out = border == "ignore" or (border == "edge" and on_edge)
                row.append(255 if leaves_out else 0)
            else:
                row.append(1)
        rows.append(row)
    return rows


@given(
    st.integers(1, 13),
    st.integers(1, 13),
    st.integers(1, 5),
    st.sampled_from(["split", "ignore", "edge"]),
    st.integers(0, 2**16),
)
def test_targets_equal_loops(h: int, w: int, cell: int, border: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 7, 254, 255], size=(-(-h // 3), -(-w // 3)))
    label = coarse.repeat(3, 0).repeat(3, 1)[:h, :w].astype(np.uint8)
    assert sharing_targets(label, cell, border).tolist() == by_loops(label, cell, border)


def test_the_transform_replaces_the_label() -> None:
    label = np.zeros((65, 40), np.uint8)
    label[3, 3] = 1
    results = GenerateSharingTargets(patch_size=16).transform({"gt_seg_map": label})
    assert results["gt_seg_map"].tolist() == [[0, 1], [1, 1], [1, 1]]
    assert results["gt_seg_map"].dtype == np.uint8


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        (dict(patch_size=0), "patch_size must be at least 1"),
        (dict(superpatch=2.0), "superpatch must be an int"),
        (dict(border="keep"), "border='keep'"),
    ],
)
def test_bad_settings_of_the_transform(kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        GenerateSharingTargets(**kwargs)


def sample(scores: list[list[float]], labels: list[list[int]], shape: tuple[int, int]) -> Any:
    return dict(
        sharing_scores=dict(data=torch.tensor([scores])),
        gt_sem_seg=dict(data=torch.tensor([labels])),
        img_shape=shape,
    )


def test_precision_by_hand() -> None:
    """Of 2 picks, 0.9 is right and 0.8 wrong; 0.99 lies half outside, 0.7 is ignored.

    Whole and counted are 3 cells, 2 of them single: a random pick is right in 2 of 3 cases, the
    best two picks both. Right by 0.5 are 0.9 and 0.1 is wrong, 0.8 is wrong: 1 of 3.
    """
    metric = SharingPrecision(num_shared=2)
    metric.process(
        {}, [sample([[0.9, 0.8, 0.99], [0.7, 0.1, 0.99]], [[1, 0, 1], [255, 1, 1]], (64, 80))]
    )
    found = metric.compute_metrics(metric.results)
    assert found["precision"] == 50.0
    assert found["precision_random"] == pytest.approx(66.67)
    assert found["precision_oracle"] == 100.0
    assert found["accuracy"] == pytest.approx(33.33)
    assert found["single"] == pytest.approx(66.67)


def test_a_fraction_of_each_images_superpatches() -> None:
    metric = SharingPrecision(num_shared=0.5)
    for size in (2, 4):
        scores = torch.rand(size, size).tolist()
        metric.process({}, [sample(scores, [[1] * size] * size, (32 * size, 32 * size))])
    assert [result["picked"] for result in metric.results] == [2, 8]
    assert metric.compute_metrics(metric.results)["precision"] == 100.0


@pytest.mark.parametrize("num_shared", [0, -1, 1.5, 0.0, True, "all"])
def test_bad_numbers_are_a_sentence(num_shared: Any) -> None:
    with pytest.raises(ValueError, match="num_shared="):
        SharingPrecision(num_shared=num_shared)


def build(**kwargs: Any) -> PolicyNetwork:
    torch.manual_seed(0)
    config = dict(type="mmtokmerge.PolicyNetwork", backbone=BACKBONE, **kwargs)
    return MODELS.build(config)


def samples(labels: torch.Tensor) -> list[SegDataSample]:
    return [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]


@pytest.mark.parametrize("size", [(64, 96), (65, 33), (31, 100)])
def test_one_score_a_superpatch_for_any_size(size: tuple[int, int]) -> None:
    model = build().eval()
    cells = (-(-size[0] // 32), -(-size[1] // 32))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        scores = model.scores(x)
        assert scores.shape == (2, *cells)
        assert ((scores > 0) & (scores < 1)).all()
        found = model(x, samples(torch.zeros(2, *cells)), mode="predict")
        torch.testing.assert_close(found[1].sharing_scores.data[0], scores[1])
        finer = build(cell=16).eval().scores(x)
    assert finer.shape == (2, -(-size[0] // 16), -(-size[1] // 16))


def test_the_loss_is_cross_entropy_over_counted_cells() -> None:
    model = build().train()
    x = torch.randn(2, 3, 64, 64)
    labels = torch.tensor([[[1, 0], [255, 1]], [[0, 0], [255, 255]]])
    torch.manual_seed(1)
    losses = model(x, samples(labels), mode="loss")
    torch.manual_seed(1)
    logits = model(x).detach().double()
    log = logits.log_softmax(1)
    picked = [
        log[b, labels[b, y, x_], y, x_]
        for b in range(2)
        for y in range(2)
        for x_ in range(2)
        if labels[b, y, x_] != 255
    ]
    assert losses["loss_policy"].item() == pytest.approx(-torch.stack(picked).mean().item(), 1e-4)
    losses["loss_policy"].backward()
    assert model.classifier.weight.grad.abs().sum() > 0
    ignored = model(x, samples(torch.full((2, 2, 2), 255)), mode="loss")
    assert ignored["loss_policy"].item() == 0


def test_it_learns_what_is_flat() -> None:
    """Cells of noise are split, flat ones shared: a few steps tell them apart."""
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (4, 4, 4))
    noise = torch.randn(4, 3, 128, 128)
    x = noise * (1 - labels).repeat_interleave(32, 1).repeat_interleave(32, 2)[:, None]
    first = None
    for _ in range(12):
        loss = model(x, samples(labels), mode="loss")["loss_policy"]
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * first


def test_wrong_shapes_are_a_sentence() -> None:
    with pytest.raises(ValueError, match="GenerateSharingTargets"):
        build()(torch.randn(1, 3, 64, 64), samples(torch.zeros(1, 64, 64)), mode="loss")
    with pytest.raises(ValueError, match=r"in_channels=64.*320 channels"):
        build(in_channels=64)(torch.randn(1, 3, 64, 64))


def test_the_metric_notices_superpatches_of_another_size() -> None:
    metric = SharingPrecision(num_shared=2, patch_size=8)
    with pytest.raises(ValueError, match=r"patch_size=8 expects 4x4 superpatches.*got 2x2"):
        metric.process({}, [sample([[0.9, 0.8], [0.7, 0.1]], [[1, 0], [1, 1]], (64, 64))])
