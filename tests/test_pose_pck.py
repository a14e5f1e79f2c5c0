"""PCK at several thresholds and the mean error, against numbers worked by hand and mmpose's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mmengine.logging import MMLogger
from pose_helpers import needs_mmpose

from mmtokmerge.errors import InputError
from mmtokmerge.pose import import_mmpose
from mmtokmerge.registry import METRICS

pytestmark = needs_mmpose


def build(**settings: Any) -> Any:
    metric = METRICS.build(dict(type="mmtokmerge.BoxPCK", **settings))
    metric.dataset_meta = {}
    return metric


def sample(truth: Any, predicted: Any, visible: Any, box: Any) -> dict[str, Any]:
    truth, predicted = (np.array([points], dtype=np.float32) for points in (truth, predicted))
    return dict(
        gt_instances=dict(
            keypoints=truth,
            keypoints_visible=np.array([visible]),
            bboxes=np.array([box], dtype=np.float32),
        ),
        pred_instances=dict(keypoints=predicted),
    )


def by_hand() -> list[dict[str, Any]]:
    """Boxes of longer side 100 and 200; distances 4, 8 and 30, 10 pixels, one keypoint unseen."""
    first = sample([[10, 10], [50, 50]], [[14, 10], [50, 58]], [1, 1], [0, 0, 100, 40])
    second = sample([[10, 10], [50, 50]], [[40, 10], [50, 60]], [0, 1], [0, 0, 50, 200])
    return [first, second]


def evaluate(metric: Any, samples: list[dict[str, Any]]) -> dict[str, float]:
    metric.process([], samples)
    return metric.evaluate(len(samples))


def test_values_worked_by_hand() -> None:
    # percent of the box: keypoint 1: 4; keypoint 2: 8 and 5
    got = evaluate(build(thresholds=[0.1, 0.06, 0.045, 0.01]), by_hand())
    assert got == pytest.approx(
        {"PCK@0.1": 1, "PCK@0.06": 0.75, "PCK@0.045": 0.5, "PCK@0.01": 0, "mean_error": 17 / 3},
        abs=1e-5,
    )


def test_the_default_thresholds_are_the_papers() -> None:
    assert list(evaluate(build(), by_hand())) == ["PCK@0.1", "PCK@0.05", "mean_error"]


def test_equals_mmposes_own_at_each_threshold() -> None:
    import_mmpose()
    from mmpose.evaluation.metrics import PCKAccuracy

    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 99, (30, 6, 2))
    predicted = truth + rng.normal(0, 6, truth.shape)
    visible = rng.integers(0, 2, (30, 6))
    sizes = rng.uniform(20, 200, (30, 2))
    samples = [
        sample(t, p, v, [0, 0, *size]) for t, p, v, size in zip(truth, predicted, visible, sizes)
    ]
    got = evaluate(build(thresholds=[0.2, 0.1, 0.05]), samples)
    for threshold in (0.2, 0.1, 0.05):
        theirs = PCKAccuracy(thr=threshold)
        assert evaluate(theirs, samples)["PCK"] == pytest.approx(got[f"PCK@{threshold}"])
    distance = np.linalg.norm(predicted - truth, axis=-1) / sizes.max(axis=1, keepdims=True)
    assert got["mean_error"] == pytest.approx(100 * distance[visible > 0].mean(), rel=1e-4)


def test_an_empty_box_counts_for_nothing() -> None:
    flat = sample([[10, 10], [50, 50]], [[90, 90], [9, 9]], [1, 1], [5, 5, 5, 5])
    assert evaluate(build(), [*by_hand(), flat]) == evaluate(build(), by_hand())


def test_detector_boxes_have_no_pck_and_a_warning_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    detected = sample(np.zeros((2, 2)), [[1, 1], [2, 2]], [1, 1], [0, 0, 9, 9])
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        metric = build()
        assert metric.compute_metrics([None, None]) == {}
        assert evaluate(build(), [*by_hand(), detected]) == evaluate(build(), by_hand())
    finally:
        logger.removeHandler(caplog.handler)
    text = caplog.text
    assert "2 of 2 samples come from detector boxes" in text
    assert "1 of 3 samples come from detector boxes" in text


@pytest.mark.parametrize("thresholds", [[], 0.1, "0.1", [0.1, 0], [-1], [True], ["a"]])
def test_wrong_thresholds_are_one_sentence(thresholds: Any) -> None:
    with pytest.raises(InputError, match="it takes a list of positive fractions of the box"):
        build(thresholds=thresholds)
