"""One benchmark from candidates to results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from mmtokmerge.benchmark.candidate_flops import forward_flops, image_flops, stage_costs
from mmtokmerge.benchmark.candidates import Candidate
from mmtokmerge.benchmark.limit import (
    Limits,
    attention_shares,
    reference_of,
    same_network,
    shares_limits,
)
from mmtokmerge.benchmark.options import Settings, Shape
from mmtokmerge.benchmark.policy_cost import policy_cost
from mmtokmerge.benchmark.reducer_cost import merging_share, tokens_after_reducers
from mmtokmerge.benchmark.result import Result, compare, ratio
from mmtokmerge.benchmark.runtimes import SUFFIXES
from mmtokmerge.benchmark.steps import make_step, random_images
from mmtokmerge.benchmark.token_fractions import keep_fractions, threshold_reducers
from mmtokmerge.errors import InputError
from mmtokmerge.measure import memory
from mmtokmerge.measure.timing import (
    Step,
    Timer,
    best_batch,
    cuda_timer,
    interleave,
    is_out_of_memory,
    wall_timer,
)

OUT_OF_MEMORY = "out of memory"
COMPILATIONS = 10_000


def run(
    candidates: Sequence[Candidate],
    settings: Settings,
    *,
    timer: Timer | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Time every candidate at every shape, on noise.

    Args:
        candidates: What is compared, from :func:`mmtokmerge.benchmark.candidates.build_candidates`.
        settings: What to measure.
        timer: Stands for the clock of the device.
        advance: Called after each timed step.

    Raises:
        InputError: If a model cannot run with these settings for another reason than memory.
    """
    timer = timer or device_timer(settings)
    results: list[Result] = []
    with torch_settings(settings):
        for shape in settings.shapes:
            results += _at_shape(candidates, settings, shape, timer, advance)
    return results


def device_timer(settings: Settings) -> Timer:
    """The clock of the device."""
    return cuda_timer if settings.device == "cuda" else wall_timer


def _at_shape(
    candidates: Sequence[Candidate],
    settings: Settings,
    shape: Shape,
    timer: Timer,
    advance: Callable[[], None],
) -> list[Result]:
    results, steps = [], {}
    if settings.compiles:
        torch.compiler.reset()  # what was compiled for another shape only has to be passed by
    for candidate in candidates:
        result = Result(shape, candidate.name, candidate.is_baseline)
        results.append(result)
        step = _warm_up(result, candidate, settings, timer)
        if step is not None:
            steps[candidate.name] = step
    samples = interleave(steps, settings.runs, timer, advance)
    for result, candidate in zip(results, candidates):
        result.samples = samples.get(result.name, [])
        if candidate.runtime in SUFFIXES or not result.samples:
            continue
        if candidate.reducers and not settings.train:
            images = random_images(candidate, settings, shape, result.batch_size or 1)
            result.merging_share = merging_share(candidate, settings, images)
        if candidate.sharing is not None:
            images = random_images(candidate, settings, shape, result.batch_size or 1)
            result.policy = policy_cost(candidate, settings, images)
    compare(results)
    if settings.limit:
        set_limits(results, candidates, settings, shape)
    return results


def set_limits(
    results: Sequence[Result],
    candidates: Sequence[Candidate],
    settings: Settings,
    shape: Shape,
) -> None:
    """Set what each of our models reached of the limit over our own unmerged one."""
    reference = reference_of(candidates)
    base = next(each for each in results if each.name == reference.name)
    if not base.samples:
        return
    by_shares = _limits_by_shares(candidates, reference, settings, shape, base.batch_size or 1)
    for result, candidate in zip(results, candidates):
        known = candidate.is_baseline or candidate is reference or not result.samples
        if known or not same_network(candidate, reference):
            continue
        fewer = base.flops / result.flops if base.flops and result.flops else None
        shares = by_shares.get(result.name)
        result.limits = Limits(reference.name, ratio(result, base), fewer, shares)


def _limits_by_shares(
    candidates: Sequence[Candidate],
    reference: Candidate,
    settings: Settings,
    shape: Shape,
    batch: int,
) -> dict[str, float]:
    """Nothing for what has no parts to time: a compiled model, a graph, a plain ViT."""
    if settings.compile or settings.cuda_graph or reference.encoder is None:
        return {}
    images = random_images(reference, settings, shape, batch)
    shares = attention_shares(reference, make_step(reference, settings, images), settings)
    return dict(shares_limits(candidates, reference, shares, shape))


def count(result: Result, candidate: Candidate, settings: Settings, images: Tensor) -> None:
    """Set FLOPs and tokens of a result, for these images where they depend on them."""
    if candidate.depends_on_images:
        result.flops, result.flops_source = image_flops(candidate, settings.part, images)
        result.kept = tokens_after_reducers(candidate.model.backbone, images)
    else:
        flops = forward_flops(candidate, settings.part, result.shape)
        result.flops, result.flops_source = flops
    if candidate.encoder is not None:
        stages = stage_costs(candidate.encoder, result.shape)
        result.tokens = [(stage.grid, stage.queries, stage.keys) for stage in stages]


def set_thresholds(candidate: Candidate, settings: Settings, images: Tensor) -> None:
    """Make a plain ViT keep the fractions of these images that were asked for."""
    if settings.kept and threshold_reducers(candidate.model.backbone):
        keep_fractions(candidate.model.backbone, images, settings.kept)


def _warm_up(result: Result, candidate: Candidate, settings: Settings, timer: Timer) -> Step | None:
    """Find the batch size, count and warm up; None where memory does not suffice."""
    device = settings.device

    def make(batch: int) -> Step:
        images = random_images(candidate, settings, result.shape, batch)
        set_thresholds(candidate, settings, images)
        return make_step(candidate, settings, images)

    def fits_twice(step: Step) -> bool:
        growth = memory.peak_growth(step, device)
        return growth is None or memory.would_fit(2 * growth, device)

    with one_sentence(result, settings):
        result.batch_size = settings.batch_size or best_batch(make, timer, fits_twice)
        begun = time.perf_counter()
        step = make(result.batch_size)
        images = random_images(candidate, settings, result.shape, result.batch_size)
        count(result, candidate, settings, images)
        warm_up(result, candidate, step, settings, timer, begun)
    return None if result.note else step


def warm_up(
    result: Result,
    candidate: Candidate,
    step: Step,
    settings: Settings,
    timer: Timer,
    begun: float | None = None,
) -> None:
    """Run a step, and set its peak memory and how long after ``begun`` the first one had ended."""
    for number in range(settings.warmup):
        timer(step)
        if number == 0 and begun is not None:
            result.setup = time.perf_counter() - begun
    growth = memory.peak_growth(getattr(step, "launched", step), settings.device)
    if growth is not None:
        optimizer: Any = getattr(step, "optimizer", None)
        result.peak_memory = growth + memory.held(candidate.model, optimizer)


@contextmanager
def one_sentence(result: Result, settings: Settings) -> Iterator[None]:
    """Note that memory does not suffice; make one sentence of what else torch says.

    Raises:
        InputError: If a model cannot run for another reason than memory.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            result.note = OUT_OF_MEMORY
            return
        height, width = result.shape
        raise InputError(
            f"{result.name} cannot run at {height} x {width} in {settings.dtype} on "
            f"{settings.device}: {str(error).strip().splitlines()[0]}"
        ) from error


@contextmanager
def torch_settings(settings: Settings) -> Iterator[None]:
    """Set threads, cuDNN's search for the fastest convolutions and how often torch compiles.

    torch.compile gives up a piece of code that it compiled eight times, here for eight models, and
    goes on without compiling and without a word. All is put back in the end.
    """
    threads, search = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(settings.threads or threads)
    torch.backends.cudnn.benchmark = True
    try:
        with compiling_often() if settings.compiles else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = search


@contextmanager
def compiling_often() -> Iterator[None]:
    """While open, torch.compile compiles code as often as it is asked to."""
    from torch._dynamo import config

    names = ("cache_size_limit", "accumulated_cache_size_limit")
    before = {name: getattr(config, name) for name in names}
    for name in names:
        setattr(config, name, COMPILATIONS)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)
