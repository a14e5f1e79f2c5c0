"""Intervals of differences between two models on the same images: a paired bootstrap over images.

A metric such as mIoU is a mean of ratios, and each ratio one of sums over images. What an image
adds to the sums is kept; images are drawn with repetition, the same ones for both models, and the
difference of the two metrics is taken each time (Efron and Tibshirani, 1993, chapter 13).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from mmtokmerge.errors import InputError

RESAMPLES = 2000
CONFIDENCE = 0.95
NUMBERS = 2**22  # of a batch of resamples that is held at once


@dataclass(frozen=True)
class Ratios:
    """A metric as a mean of ratios of sums over images.

    Args:
        numerators: ``(n, K)`` what each of n images adds above the line of each of K ratios.
        denominators: ``(n, K)`` what it adds below; a ratio over 0 is left out of the mean.
        scale: What the mean is multiplied by, 100 for percent.
    """

    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]
    scale: float = 1.0

    def value(self, images: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """The metric over images ``(..., n)``, rows of which may repeat some; all where None."""
        above = self.numerators if images is None else self.numerators[images]
        below = self.denominators if images is None else self.denominators[images]
        sums, counts = above.sum(-2), below.sum(-2)  # (..., K)
        ratios = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        mean: NDArray[np.float64] = self.scale * np.nanmean(ratios, axis=-1)
        return mean

    def __len__(self) -> int:
        return len(self.numerators)


@dataclass(frozen=True)
class Difference:
    """A metric of one model less that of another on the same images.

    Args:
        metric: The name of the metric.
        first: The first model's value of the metric.
        second: The second model's value.
        low: Lower end of the interval of ``first - second``; nan where there is none, since most
            draws hold no image with what the metric needs.
        high: Upper end.
        num_images: Images that both saw; instances of keypoints.
    """

    metric: str
    first: float
    second: float
    low: float
    high: float
    num_images: int

    @property
    def value(self) -> float:
        """``first - second``."""
        return self.first - self.second

    @property
    def holds_zero(self) -> bool:
        """Whether the images cannot tell the two apart: zero is inside, or there is no interval."""
        return not (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        digits = 2 if max(abs(self.first), abs(self.second)) > 2 else 4  # PCK is from 0 to 1
        ends = (f"{end:+.{digits}f}" for end in (self.value, self.low, self.high))
        return "{} [{}, {}]".format(*ends)


def paired_difference(
    metric: str, first: Ratios, second: Ratios, seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """The difference of a metric with its 95% interval, by the percentiles of a paired bootstrap.

    Args:
        metric: The name of the metric.
        first: The first model's ratios.
        second: The second model's, over the same images in the same order.
        seed: Random seed for drawing the images.
        resamples: How often images are drawn.

    Raises:
        InputError: The two are of different images, or there are fewer than two.
    """
    if len(first) != len(second) or len(first) < 2:
        raise InputError(
            f"{metric}: an interval needs at least two images, the same for both models, got "
            f"{len(first)} and {len(second)}"
        )

    def difference(images: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        found: NDArray[np.float64] = first.value(images) - second.value(images)
        return found

    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # draws without any image of a rare class
        drawn = bootstrap(
            (np.arange(len(first)),),
            difference,
            n_resamples=resamples,
            batch=max(1, NUMBERS // max(1, first.numerators.size)),
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    drawn = drawn[~np.isnan(drawn)]
    tail = 50 * (1 - CONFIDENCE)
    enough = len(drawn) >= resamples // 2
    low, high = np.percentile(drawn, (tail, 100 - tail)) if enough else (np.nan, np.nan)
    return Difference(
        metric,
        float(first.value()),
        float(second.value()),
        float(low),
        float(high),
        len(first),
    )


def differences(
    first: Mapping[str, Ratios], second: Mapping[str, Ratios], seed: int = 0
) -> list[Difference]:
    """:func:`paired_difference` of every metric that both have."""
    return [
        paired_difference(name, ratios, second[name], seed)
        for name, ratios in first.items()
        if name in second
    ]


def ratios_of(metric: Any, results: Sequence[Any]) -> dict[str, Ratios]:
    """What a metric's results of each image add up to; {} for a metric that is no such mean.

    Args:
        metric: mmseg's ``IoUMetric``, ours with small classes, or ours of keypoints.
        results: One of each image, as the metric's ``compute_metrics`` takes them.
    """
    if hasattr(metric, "thresholds") and hasattr(metric, "norm_item"):
        return _of_keypoints(metric, [each for each in results if each is not None])
    wanted = getattr(metric, "metrics", ())
    if "mIoU" not in wanted or getattr(metric, "format_only", False) or not results:
        return {}
    areas = np.stack([np.stack([np.asarray(area) for area in image[:2]]) for image in results])
    intersect, union = areas[:, 0].astype(np.float64), areas[:, 1].astype(np.float64)
    found = {"mIoU": Ratios(intersect, union, 100)}
    small = getattr(metric, "small_classes", ())
    if small:
        classes = list(metric.dataset_meta["classes"])
        columns = [classes.index(name) for name in small]
        found["mIoU_small"] = Ratios(intersect[:, columns], union[:, columns], 100)
    return found


def _of_keypoints(metric: Any, results: Sequence[Mapping[str, Any]]) -> dict[str, Ratios]:
    """PCK at each threshold, a mean over the kinds of keypoints, and the mean error in percent.

    What is drawn are instances, people or animals, not images.
    """
    if not results:
        return {}
    keys = ("pred_coords", "gt_coords", "mask", "bbox_size")
    pred, truth, mask, size = (np.concatenate([each[key] for each in results]) for key in keys)
    counted = (mask & (size[:, :1] > 0)).astype(np.float64)  # (n, K)
    sides = size.clip(min=1e-6)[:, None]  # (n, 1, 2)
    errors = np.linalg.norm((pred - truth) / sides, axis=-1)
    found = {
        f"PCK@{threshold:g}": Ratios(counted * (errors < threshold), counted)
        for threshold in metric.thresholds
    }
    total = (counted * errors).sum(1, keepdims=True), counted.sum(1, keepdims=True)
    found["mean_error"] = Ratios(*total, scale=100)
    return found


@contextmanager
def keeping_results(evaluator: Any) -> Iterator[dict[str, Ratios]]:
    """Keep what the metrics of an evaluator compute from, on the process that computes.

    Args:
        evaluator: mmengine's ``Evaluator``.

    Yields:
        By the metric's name, filled when the evaluator has evaluated.
    """
    kept: dict[str, Ratios] = {}

    def wrap(metric: Any) -> Any:
        compute = metric.compute_metrics

        def keep(results: list[Any]) -> Any:
            prefix = getattr(metric, "prefix", None)
            for name, ratios in ratios_of(metric, results).items():
                kept[f"{prefix}/{name}" if prefix else name] = ratios
            return compute(results)

        return keep

    for metric in evaluator.metrics:
        metric.compute_metrics = wrap(metric)
    try:
        yield kept
    finally:
        for metric in evaluator.metrics:
            del metric.compute_metrics
