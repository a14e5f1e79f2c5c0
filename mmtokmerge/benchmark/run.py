"""One benchmark from contestants to results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mmtokmerge.benchmark import memory
from mmtokmerge.benchmark.contestants import Contestant
from mmtokmerge.benchmark.flops import forward_flops, stage_costs
from mmtokmerge.benchmark.settings import Settings, Shape
from mmtokmerge.benchmark.timing import (
    Step,
    Summary,
    Timer,
    best_batch,
    cuda_timer,
    interleave,
    is_out_of_memory,
    summarise,
    wall_timer,
)
from mmtokmerge.benchmark.work import make_step
from mmtokmerge.errors import InputError

OUT_OF_MEMORY = "out of memory"


@dataclass
class Result:
    """One contestant at one shape; None where it did not run or a value could not be had.

    Args:
        shape: Image ``(H, W)`` in pixels.
        name: Of the contestant.
        is_baseline: Whether others are compared with it.
        batch_size: Images of a step.
        samples: Milliseconds of each step, in the order of the rounds.
        peak_memory: MiB of weights, optimizer state and what a step adds.
        flops: FLOPs of the forward pass of one image.
        flops_source: How they were found.
        tokens: For each stage its grid ``(h, w)``, the queries kept and the keys kept.
        speedup: For each baseline its time for an image over this one's, by medians.
        note: Why it did not run.
    """

    shape: Shape
    name: str
    is_baseline: bool
    batch_size: int | None = None
    samples: list[float] = field(default_factory=list)
    peak_memory: float | None = None
    flops: int | None = None
    flops_source: str = ""
    tokens: list[tuple[tuple[int, int], int, int]] | None = None
    speedup: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def latency(self) -> Summary | None:
        """Milliseconds of a step."""
        return summarise(self.samples) if self.samples else None

    @property
    def images_per_second(self) -> float | None:
        """Images a second at the median."""
        if self.latency is None or self.batch_size is None:
            return None
        return self.batch_size * 1e3 / self.latency.median


def run(
    contestants: Sequence[Contestant],
    settings: Settings,
    *,
    timer: Timer | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Time every contestant at every shape.

    Args:
        contestants: From :func:`mmtokmerge.benchmark.contestants.build_contestants`.
        settings: What to measure.
        timer: Stands for the clock of the device.
        advance: Called after each timed step.

    Raises:
        InputError: If a model cannot run with these settings for another reason than memory.
    """
    if timer is None:
        timer = cuda_timer if settings.device == "cuda" else wall_timer
    results: list[Result] = []
    with _torch_settings(settings):
        for shape in settings.shapes:
            results += _at_shape(contestants, settings, shape, timer, advance)
    return results


def _at_shape(
    contestants: Sequence[Contestant],
    settings: Settings,
    shape: Shape,
    timer: Timer,
    advance: Callable[[], None],
) -> list[Result]:
    results, steps = [], {}
    for contestant in contestants:
        result = Result(shape, contestant.name, contestant.is_baseline)
        _count(result, contestant, settings.part)
        step = _warm_up(result, contestant, settings, timer)
        if step is not None:
            steps[contestant.name] = step
        results.append(result)
    samples = interleave(steps, settings.runs, timer, advance)
    for result in results:
        result.samples = samples.get(result.name, [])
    compare(results)
    return results


def compare(results: Sequence[Result]) -> None:
    """Set the speed-ups of one shape: images a second over those of each baseline."""
    for baseline in (each for each in results if each.is_baseline and each.samples):
        for result in (each for each in results if each.samples):
            ratio = (result.images_per_second or 0) / (baseline.images_per_second or 1)
            result.speedup[baseline.name] = ratio


def _count(result: Result, contestant: Contestant, part: str) -> None:
    result.flops, result.flops_source = forward_flops(contestant, part, result.shape)
    if contestant.encoder is not None:
        stages = stage_costs(contestant.encoder, result.shape)
        result.tokens = [(stage.grid, stage.queries, stage.keys) for stage in stages]


def _warm_up(
    result: Result, contestant: Contestant, settings: Settings, timer: Timer
) -> Step | None:
    """Find the batch size, warm up and measure memory; None where memory does not suffice."""
    device = settings.device

    def make(batch: int) -> Step:
        return make_step(contestant, settings, result.shape, batch)

    def fits_twice(step: Step) -> bool:
        growth = memory.peak_growth(step, device)
        return growth is None or memory.would_fit(2 * growth, device)

    try:
        result.batch_size = settings.batch_size or best_batch(make, timer, fits_twice)
        step = make(result.batch_size)
        for _ in range(settings.warmup):
            timer(step)
        growth = memory.peak_growth(step, device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            result.note = OUT_OF_MEMORY
            return None
        height, width = result.shape
        raise InputError(
            f"{result.name} cannot run at {height} x {width} in {settings.dtype} on "
            f"{device}: {str(error).strip().splitlines()[0]}"
        ) from error
    if growth is not None:
        optimizer: Any = getattr(step, "optimizer", None)
        result.peak_memory = growth + memory.held(contestant.model, optimizer)
    return step


@contextmanager
def _torch_settings(settings: Settings) -> Iterator[None]:
    """Set threads and cuDNN's search for the fastest convolutions, and put them back."""
    threads, search = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(settings.threads or threads)
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = search
