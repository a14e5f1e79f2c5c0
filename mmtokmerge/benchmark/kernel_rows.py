"""What the scripts that time kernels alone have in common: rows of samples, and their file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmtokmerge.measure.timing import summarise
from mmtokmerge.reporting.files import write_json


@dataclass(frozen=True)
class KernelRow:
    """One way of one size, in milliseconds.

    Args:
        size: What was timed, a dataclass.
        way: The name of the kernel.
        median: The median of the samples.
        p10: Their 10th percentile.
        p90: Their 90th percentile.
        samples: One for each round.
    """

    size: Any
    way: str
    median: float
    p10: float
    p90: float
    samples: list[float]


def kernel_rows(size: Any, samples: Mapping[str, list[float]]) -> list[KernelRow]:
    """A row for each way, in the order of ``samples``."""
    return [
        KernelRow(size, way, **asdict(summarise(each)), samples=each)
        for way, each in samples.items()
    ]


def save_kernel_rows(
    path: Path,
    rows: Sequence[KernelRow],
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    **more: Sequence[Any],
) -> None:
    """Write machine, settings, every sample and ``more`` as JSON, whole or not at all.

    Raises:
        InputError: If the file cannot be written.
    """
    content = dict(machine=machine, settings=settings, rows=[asdict(row) for row in rows], **more)
    write_json(path, content)
