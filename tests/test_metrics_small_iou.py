"""mIoU_small against a brute-force confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.evaluation import IoUMetric

from mmtokmerge.errors import InputError
from mmtokmerge.registry import METRICS

CLASSES = ("road", "fence", "pole", "traffic light", "traffic sign", "train")


def build(**settings):
    init_default_scope("mmseg")
    return METRICS.build({"type": "mmtokmerge.SmallClassIoUMetric", **settings})


def asked(seed: int, labels: tuple[int, ...], predictions: tuple[int, ...]):
    rng = np.random.default_rng(seed)
    return rng.choice(labels, (3, 9, 11)), rng.choice(predictions, (3, 9, 11))


def evaluate(metric, label: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    metric.dataset_meta = {"classes": CLASSES}
    samples = [
        {
            "gt_sem_seg": {"data": torch.from_numpy(true)[None]},
            "pred_sem_seg": {"data": torch.from_numpy(guess)[None]},
        }
        for true, guess in zip(label, prediction)
    ]
    for sample in samples:
        metric.process({}, [sample])
    return metric.evaluate(len(samples))


def brute_force_iou(label: np.ndarray, prediction: np.ndarray) -> list[float]:
    confusion = [[0] * len(CLASSES) for _ in CLASSES]
    for true, guess in zip(label.ravel().tolist(), prediction.ravel().tolist()):
        if true != 255:
            confusion[true][guess] += 1
    matrix = np.array(confusion)
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return [d / u if u else np.nan for d, u in zip(matrix.diagonal(), union)]


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_confusion_matrix(seed: int):
    label, prediction = asked(seed, (0, 1, 2, 3, 4, 5, 255), (0, 1, 2, 3, 4, 5))
    metrics = evaluate(build(), label, prediction)
    iou = brute_force_iou(label, prediction)
    assert metrics["mIoU"] == pytest.approx(np.mean(iou) * 100, abs=0.006)
    assert metrics["mIoU_small"] == pytest.approx(np.mean(iou[1:5]) * 100, abs=0.006)


def test_absent_class_is_left_out():
    label, prediction = asked(0, (0, 1, 2), (0, 1, 2))
    metrics = evaluate(build(), label, prediction)
    iou = brute_force_iou(label, prediction)
    assert metrics["mIoU_small"] == pytest.approx(np.mean(iou[1:3]) * 100, abs=0.006)


def test_no_small_class_at_all_is_nan_unless_told():
    label, prediction = asked(0, (0, 5), (0, 5))
    assert np.isnan(evaluate(build(), label, prediction)["mIoU_small"])
    assert evaluate(build(nan_to_num=0), label, prediction)["mIoU_small"] == 0


def test_the_rest_is_mmsegs():
    label, prediction = asked(1, (0, 1, 2, 3, 255), (0, 1, 2, 3, 4))
    settings = {"iou_metrics": ["mIoU", "mDice"]}
    ours = evaluate(build(small_classes=["pole"], **settings), label, prediction)
    ours.pop("mIoU_small")
    assert ours == pytest.approx(evaluate(IoUMetric(**settings), label, prediction), nan_ok=True)


def test_wrong_class_lists_are_refused():
    with pytest.raises(InputError, match=r"names 'poles', but the dataset's classes are road, fen"):
        build(small_classes=["fence", "poles"]).dataset_meta = {"classes": CLASSES}
    for wrong in ("fence", []):
        with pytest.raises(InputError, match="list of at least one class"):
            build(small_classes=wrong)


def test_format_only_reports_nothing(tmp_path):
    metric = build(format_only=True, output_dir=str(tmp_path))
    metric.dataset_meta = {"classes": CLASSES}
    guess = torch.zeros(1, 4, 4, dtype=torch.long)
    metric.process({}, [{"pred_sem_seg": {"data": guess}, "img_path": "a/b.png"}])
    assert not metric.evaluate(1) and (tmp_path / "b.png").is_file()
