"""How much of a step is spent in some of its modules, timed inside the step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import nn

Mark = Any  # seconds on a CPU, an event on a GPU


def part_shares(
    step: Callable[[], Any],
    parts: Mapping[str, Sequence[nn.Module]],
    device: str,
    runs: int,
) -> dict[str, float]:
    """The share of a step's time that each part takes, the median over ``runs``.

    Args:
        step: What is timed; it calls the modules of every part.
        parts: Modules by name; those of one part must not lie inside each other.
        device: 'cpu' or 'cuda'.
        runs: Steps.

    Raises:
        RuntimeError: If a step calls none of a part's modules.
    """
    shares: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(runs):
        total, times = _timed(step, parts, device)
        for name, spent in times.items():
            if not spent:
                raise RuntimeError(f"the step calls no module of {name!r}")
            shares[name].append(sum(spent) / total)
    return {name: median(values) for name, values in shares.items()}


def _timed(
    step: Callable[[], Any], parts: Mapping[str, Sequence[nn.Module]], device: str
) -> tuple[float, dict[str, list[float]]]:
    """Milliseconds of a step, and of every call of each part's modules."""
    clock: Callable[[], Mark] = _event if device == "cuda" else time.perf_counter
    starts: dict[str, list[Mark]] = {name: [] for name in parts}
    ends: dict[str, list[Mark]] = {name: [] for name in parts}
    hooks = []
    for name, modules in parts.items():
        for module in modules:
            hooks.append(module.register_forward_pre_hook(_recorder(starts[name], clock)))
            hooks.append(module.register_forward_hook(_recorder(ends[name], clock)))
    try:
        before = clock()
        step()
        after = clock()
    finally:
        for hook in hooks:
            hook.remove()
    if device == "cuda":
        torch.cuda.synchronize()
    spent = {name: [_between(*pair) for pair in zip(starts[name], ends[name])] for name in parts}
    return _between(before, after), spent


def _recorder(marks: list[Mark], clock: Callable[[], Mark]) -> Callable[..., None]:
    def record(*_: Any) -> None:
        marks.append(clock())

    return record


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start: Mark, end: Mark) -> float:
    """Milliseconds."""
    return (end - start) * 1e3 if isinstance(start, float) else start.elapsed_time(end)
