"""Intervals of differences: against values computed by hand, a normal law, and the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pose_helpers import needs_mmpose

pytest.importorskip("mmseg")

from mmseg.evaluation import IoUMetric

from mmtokmerge.errors import InputError
from mmtokmerge.evaluation import SmallClassIoUMetric
from mmtokmerge.evaluation.intervals import (
    Ratios,
    differences,
    keeping_results,
    paired_difference,
    ratios_of,
)


def test_the_value_is_a_mean_of_ratios_of_sums() -> None:
    ratios = Ratios(np.array([[1.0, 0], [2, 0]]), np.array([[2.0, 0], [4, 0]]), 100)
    assert float(ratios.value()) == pytest.approx(50)  # the second ratio has nothing below
    assert float(ratios.value(np.array([1, 1]))) == pytest.approx(50)
    ones = Ratios(np.array([[1.0, 1], [0, 1]]), np.ones((2, 2)))
    assert ones.value(np.array([[0, 0], [1, 1], [0, 1]])).tolist() == [1.0, 0.5, 0.75]


def test_the_interval_of_means_is_that_of_the_normal_law() -> None:
    """With one in each denominator it is the mean of paired differences: +-1.96 s / sqrt(n)."""
    rng = np.random.default_rng(0)
    second = rng.normal(10, 5, (400, 1))
    first = second + rng.normal(0.3, 1, (400, 1))
    found = paired_difference(
        "mean", Ratios(first, np.ones_like(first)), Ratios(second, np.ones_like(second))
    )
    apart = (first - second)[:, 0]
    half = 1.96 * apart.std() / 20
    assert found.value == pytest.approx(apart.mean())
    assert found.low == pytest.approx(apart.mean() - half, abs=0.02)
    assert found.high == pytest.approx(apart.mean() + half, abs=0.02)
    assert not found.holds_zero and found.num_images == 400


def test_the_same_predictions_do_not_differ_and_a_seed_repeats() -> None:
    rng = np.random.default_rng(1)
    ratios = Ratios(rng.random((20, 3)), np.ones((20, 3)))
    found = paired_difference("x", ratios, ratios)
    assert (found.value, found.low, found.high) == (0, 0, 0) and found.holds_zero
    other = Ratios(rng.random((20, 3)), np.ones((20, 3)))
    assert paired_difference("x", ratios, other) == paired_difference("x", ratios, other)


def test_a_class_that_few_images_hold() -> None:
    """One image of ten: a third of the draws hold it not; they say nothing."""
    above, below = np.zeros((10, 1)), np.zeros((10, 1))
    above[3], below[3] = 6.0, 10.0
    first, second = Ratios(above, below, 100), Ratios(above - (above > 0), below, 100)
    found = paired_difference("x", first, second)
    assert (found.value, found.low, found.high) == pytest.approx((10, 10, 10))
    assert not found.holds_zero
    nothing = Ratios(np.zeros((10, 1)), np.zeros((10, 1)))
    assert paired_difference("x", nothing, nothing).holds_zero


def test_other_images_are_refused() -> None:
    few, more = Ratios(np.ones((2, 1)), np.ones((2, 1))), Ratios(np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(InputError, match="the same for both models, got 2 and 3"):
        paired_difference("mIoU", few, more)
    one = Ratios(np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(InputError, match="at least two images"):
        paired_difference("mIoU", one, one)


def iou_results(metric: Any, seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    results = []
    for _ in range(6):
        label = torch.randint(0, 4, (8, 8), generator=generator)
        noise = torch.rand(8, 8, generator=generator) < 0.3
        predicted = torch.where(noise, torch.randint(0, 4, (8, 8), generator=generator), label)
        results.append(metric.intersect_and_union(predicted, label, 4, 255))
    return results


@pytest.mark.parametrize("small", [False, True])
def test_ratios_add_up_to_the_metric(small: bool) -> None:
    settings = dict(small_classes=["c", "a"]) if small else {}
    metric = (SmallClassIoUMetric if small else IoUMetric)(**settings)
    metric.dataset_meta = dict(classes=["a", "b", "c", "d"])
    results = iou_results(metric, 0)
    expected = metric.compute_metrics(results)
    found = ratios_of(metric, results)
    assert set(found) == ({"mIoU", "mIoU_small"} if small else {"mIoU"})
    for name, ratios in found.items():
        assert float(ratios.value()) == pytest.approx(expected[name], abs=0.006)


@needs_mmpose
def test_keypoints_add_up_to_the_metric() -> None:
    from mmtokmerge.pose import import_mmpose

    import_mmpose()
    from mmtokmerge.evaluation.pck import BoxPCK

    metric = BoxPCK(thresholds=(0.1, 0.05))
    rng = np.random.default_rng(3)
    results = [
        dict(
            pred_coords=(truth := rng.random((1, 5, 2)) * 100) + rng.normal(0, 5, (1, 5, 2)),
            gt_coords=truth,
            mask=rng.random((1, 5)) < 0.8,
            bbox_size=np.full((1, 2), 80.0),
        )
        for _ in range(12)
    ]
    expected = metric.compute_metrics([*results, None])
    found = ratios_of(metric, [*results, None])
    assert set(found) == set(expected)
    for name, ratios in found.items():
        assert float(ratios.value()) == pytest.approx(expected[name], rel=1e-4)


def test_results_are_kept_while_the_evaluator_evaluates() -> None:
    from mmengine.evaluator import Evaluator

    metric = IoUMetric()
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = dict(classes=["a", "b", "c", "d"])
    metric.results = iou_results(metric, 1)
    with keeping_results(evaluator) as kept:
        metrics = evaluator.evaluate(6)
    assert float(kept["mIoU"].value()) == pytest.approx(metrics["mIoU"], abs=0.006)
    assert "compute_metrics" not in vars(metric)
    assert [each.metric for each in differences(kept, kept)] == ["mIoU"]


def test_compare_of_the_test_tool(tmp_path: Path) -> None:
    from engine_helpers import run_tool

    camvid = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"
    weights = camvid.parents[1] / "weights" / "b0_camvid.pth"
    if not weights.is_file() or not camvid.is_dir():
        pytest.skip(f"no {weights} and {camvid}")
    where = f"test_dataloader.dataset.data_root={camvid}"
    configs = [f"configs/segformerpp/b0_camvid_{name}.py" for name in ("fast", "none")]
    given = (configs[0], str(weights), "--compare", configs[1], str(weights))
    options = ("--cfg-options", where, "test_dataloader.dataset.indices=4")
    result = run_tool("test.py", *given, "--work-dir", str(tmp_path), *options)
    assert result.status == 0, result.output
    assert "difference [95% interval]" in result.output
    found = json.loads((tmp_path / "compare.json").read_text())
    first, second = found["differences"]
    assert (first["metric"], second["metric"], first["num_images"]) == ("mIoU", "mIoU_small", 4)
    assert first["low"] <= first["difference"] <= first["high"]
