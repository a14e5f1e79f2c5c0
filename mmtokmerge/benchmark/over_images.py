"""A benchmark on real images, as ALGM measures throughput (appendix, throughput evaluation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from torch import Tensor

from mmtokmerge.benchmark.candidates import Candidate
from mmtokmerge.benchmark.images import load_image
from mmtokmerge.benchmark.options import Settings, Shape
from mmtokmerge.benchmark.policy_cost import policy_cost
from mmtokmerge.benchmark.reducer_cost import merging_share
from mmtokmerge.benchmark.result import Result, compare
from mmtokmerge.benchmark.run import (
    count,
    device_timer,
    one_sentence,
    set_limits,
    set_thresholds,
    torch_settings,
    warm_up,
)
from mmtokmerge.benchmark.steps import make_step, prepare_images
from mmtokmerge.measure.timing import Step, Timer, interleave


def run_over_images(
    candidates: Sequence[Candidate],
    settings: Settings,
    paths: Sequence[Path],
    *,
    timer: Timer | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Time every candidate on every image, in a batch of ``settings.batch_size`` copies of it.

    Copies keep the same number of tokens, so that nothing is padded. The models take turns on each
    image; images a second, ratios, FLOPs and tokens are means over the images.

    Args:
        candidates: From :func:`mmtokmerge.benchmark.candidates.build_candidates`.
        settings: What to measure.
        paths: The images.
        timer: Stands for the clock of the device.
        advance: Called after each timed step.

    Raises:
        InputError: If an image cannot be read, or a model cannot run.
    """
    timer = timer or device_timer(settings)
    results: list[Result] = []
    with torch_settings(settings):
        for shape in settings.shapes:
            results += _at_shape(candidates, settings, shape, paths, timer, advance)
    return results


def _at_shape(
    candidates: Sequence[Candidate],
    settings: Settings,
    shape: Shape,
    paths: Sequence[Path],
    timer: Timer,
    advance: Callable[[], None],
) -> list[Result]:
    single = [
        _on_image(candidates, settings, shape, path, timer, advance, first=path is paths[0])
        for path in paths
    ]
    results = [_mean([each[index] for each in single]) for index in range(len(candidates))]
    compare(results)
    if settings.limit:
        set_limits(results, candidates, settings, shape)
    return results


def _on_image(
    candidates: Sequence[Candidate],
    settings: Settings,
    shape: Shape,
    path: Path,
    timer: Timer,
    advance: Callable[[], None],
    first: bool,
) -> list[Result]:
    results, steps, inputs = [], {}, {}
    for candidate in candidates:
        image = load_image(path, shape, candidate.model)
        image = prepare_images(image, settings)
        result = Result(shape, candidate.name, candidate.is_baseline, settings.batch_size)
        results.append(result)
        with one_sentence(result, settings):
            inputs[result.name] = _copies(image, settings)
            steps[result.name] = _prepare(
                result, candidate, settings, image, inputs[result.name], timer, first
            )
    samples = interleave(steps, settings.runs, timer, advance)
    for result, candidate in zip(results, candidates):
        result.samples = samples.get(result.name, [])
        if candidate.reducers and result.samples:
            result.merging_share = merging_share(candidate, settings, inputs[result.name])
        if candidate.sharing is not None and result.samples:
            result.policy = policy_cost(candidate, settings, inputs[result.name])
    return results


def _prepare(
    result: Result,
    candidate: Candidate,
    settings: Settings,
    image: Tensor,
    copies: Tensor,
    timer: Timer,
    first: bool,
) -> Step:
    """Set thresholds and counts; warm up, fully on the first image."""
    set_thresholds(candidate, settings, image)
    count(result, candidate, settings, image)
    step = make_step(candidate, settings, copies)
    if first:
        warm_up(result, candidate, step, settings, timer)
    else:
        timer(step)
    return step


def _copies(image: Tensor, settings: Settings) -> Tensor:
    """``(repeat, 3, H, W)`` of an image ``(1, 3, H, W)``."""
    return image.expand(settings.batch_size or 1, -1, -1, -1).contiguous()


def _mean(single: Sequence[Result]) -> Result:
    """One model's result over all images from those on each."""
    first = single[0]
    result = Result(first.shape, first.name, first.is_baseline, first.batch_size)
    result.note = next((each.note for each in single if each.note), "")
    result.images = len(single)
    if result.note:
        return result
    result.samples = [median(each.samples) for each in single]
    result.peak_memory = first.peak_memory
    result.flops_source, result.tokens = first.flops_source, first.tokens
    counted = [each.flops for each in single if each.flops is not None]
    result.flops = round(fmean(counted)) if counted else None
    result.kept = {place: fmean(each.kept[place] for each in single) for place in first.kept}
    shares = [each.merging_share for each in single if each.merging_share is not None]
    result.merging_share = fmean(shares) if shares else None
    if first.policy is not None:
        timed = [each.policy.share for each in single if each.policy and each.policy.share]
        result.policy = replace(first.policy, share=fmean(timed) if timed else None)
    return result
