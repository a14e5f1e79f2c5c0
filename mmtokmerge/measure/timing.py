"""Timers, interleaved rounds, and the batch size with the most images a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Step = Callable[[], Any]
Timer = Callable[[Step], float]  # milliseconds of one step

MAX_BATCH = 1024
MIN_GAIN = 1.02


def wall_timer(step: Step) -> float:
    """Milliseconds of a step on the CPU."""
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


def cuda_timer(step: Step) -> float:
    """Milliseconds of a step on the GPU, from its first to its last operation, by events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def interleave(
    steps: Mapping[str, Step],
    runs: int,
    timer: Timer,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time all steps in turn, A B C A B C ..., so that a slow moment of the machine meets all.

    Returns:
        For each name ``runs`` samples in milliseconds.
    """
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(runs):
        for name, step in steps.items():
            samples[name].append(timer(step))
            advance()
    return samples


@dataclass(frozen=True)
class Summary:
    """Median and 10th to 90th percentile of samples, in milliseconds."""

    median: float
    p10: float
    p90: float


def summarise(samples: Sequence[float]) -> Summary:
    """The summary of at least one sample."""
    p10, median, p90 = np.percentile(samples, (10, 50, 90))
    return Summary(float(median), float(p10), float(p90))


def best_batch(
    make: Callable[[int], Step],
    timer: Timer,
    fits: Callable[[Step], bool] = lambda step: True,
    repeats: int = 3,
) -> int:
    """The power of two with the most images a second, as Table V of Segformer++ is made.

    The batch doubles until that wins less than 2% of images a second or memory does not suffice.

    Args:
        make: Makes the step for a batch size.
        timer: Times it.
        fits: Whether twice the memory of a step would still be there.
        repeats: Samples of each batch size after one step of warm-up; the median counts.

    Raises:
        RuntimeError: If one image does not run.
    """
    best, best_speed, batch = 1, 0.0, 1
    while batch <= MAX_BATCH:
        try:
            step = make(batch)
            step()
            median = summarise([timer(step) for _ in range(repeats)]).median
        except RuntimeError as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
            break
        speed = batch / median
        gain = speed / best_speed if best_speed else math.inf
        if gain > 1:
            best, best_speed = batch, speed
        if gain < MIN_GAIN or not fits(step):
            break
        batch *= 2
    return best


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory, on the GPU or the CPU."""
    kind = torch.cuda.OutOfMemoryError
    return isinstance(error, kind) or "can't allocate memory" in str(error)
