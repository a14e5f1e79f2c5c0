"""Results as a table on the terminal, as JSON, as CSV and as a plot."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mmtokmerge.benchmark.machine import slug
from mmtokmerge.benchmark.run import Result
from mmtokmerge.benchmark.settings import Settings

RESULTS = Path("benchmarks/results")


def print_tables(results: Sequence[Result], settings: Settings, console: Console) -> None:
    """Two tables for each shape: ratios, times, memory and FLOPs; and the tokens kept."""
    baselines = baselines_of(results)
    rate = "steps/s" if settings.train else "images/s"
    heads = ["model", *(f"over\n{name}" for name in baselines)]
    heads += ["batch\nsize", "median\nms", "p10 - p90\nms", rate, "peak\nMiB", "GFLOPs\n/image"]
    stages = ["queries x keys kept", *(f"stage {number}" for number in range(1, 5))]
    for shape in settings.shapes:
        rows = [each for each in results if each.shape == shape]
        cells = [_cells(each, baselines, settings.train) for each in rows]
        console.print(_table(heads, cells, _title(shape, settings)))
        if settings.part != "head" and any(each.tokens for each in rows):
            console.print(_table(stages, [_kept(each) for each in rows if each.tokens]))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1))
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _kept(result: Result) -> list[str]:
    return [result.name, *(f"{queries} x {keys}" for _, queries, keys in result.tokens or [])]


def _title(shape: tuple[int, int], settings: Settings) -> str:
    return f"{title_of(settings)}, {shape[0]} x {shape[1]}"


def title_of(settings: Settings) -> str:
    """What was measured, in words."""
    work = "training" if settings.train else "inference"
    compiled = ", compiled" if settings.compile else ""
    return f"{settings.part}, {work}, {settings.dtype}{compiled}"


def _cells(result: Result, baselines: Sequence[str], train: bool) -> list[str]:
    latency = result.latency
    if latency is None:
        return [result.name, *("" for _ in baselines), "", "", result.note]
    speed = 1e3 / latency.median if train else result.images_per_second
    return [
        result.name,
        *(_number(result.speedup.get(name), ".2f") for name in baselines),
        str(result.batch_size),
        _number(latency.median, ".1f"),
        f"{latency.p10:.1f} - {latency.p90:.1f}",
        _number(speed, ".2f"),
        _number(result.peak_memory, ".0f"),
        _number(None if result.flops is None else result.flops / 1e9, ".2f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def save_json(
    path: Path, results: Sequence[Result], settings: Settings, machine: dict[str, Any]
) -> None:
    """Write the machine, the settings, and of every result all samples and what follows of them."""
    content = dict(
        machine=machine, settings=asdict(settings), results=[_record(each) for each in results]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _record(result: Result) -> dict[str, Any]:
    latency = result.latency
    return {
        **asdict(result),
        "latency_ms": None if latency is None else asdict(latency),
        "images_per_second": result.images_per_second,
    }


def save_csv(
    path: Path, results: Sequence[Result], settings: Settings, machine: dict[str, Any]
) -> None:
    """Write one row for each model and shape, each with the machine and the versions."""
    baselines = baselines_of(results)
    rows = [_row(result, baselines, settings, machine) for result in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _row(
    result: Result, baselines: Sequence[str], settings: Settings, machine: dict[str, Any]
) -> dict[str, Any]:
    latency, speedup = result.latency, result.speedup
    tokens = result.tokens or []
    return {
        "model": result.name,
        "part": settings.part,
        "mode": "train" if settings.train else "inference",
        "height": result.shape[0],
        "width": result.shape[1],
        "batch_size": result.batch_size,
        **{f"speedup_over_{slug(name)}": _rounded(speedup.get(name)) for name in baselines},
        "median_ms": _rounded(latency and latency.median),
        "p10_ms": _rounded(latency and latency.p10),
        "p90_ms": _rounded(latency and latency.p90),
        "images_per_second": _rounded(result.images_per_second),
        "peak_memory_mib": _rounded(result.peak_memory),
        "forward_flops": result.flops,
        "flops_source": result.flops_source,
        "queries_kept": " ".join(str(queries) for _, queries, _ in tokens),
        "keys_kept": " ".join(str(keys) for _, _, keys in tokens),
        "note": result.note,
        "dtype": settings.dtype,
        "device": settings.device,
        "compile": settings.compile,
        "runs": settings.runs,
        **machine,
    }


def csv_path(settings: Settings, machine: dict[str, Any]) -> Path:
    """Where results of this machine and these versions go by default."""
    words = [settings.part, machine["machine"], f"torch{machine['torch']}", settings.dtype]
    words += ["train"] * settings.train + ["compile"] * settings.compile
    return RESULTS / f"{'_'.join(slug(word) for word in words)}.csv"


def baselines_of(results: Sequence[Result]) -> list[str]:
    """Names of the baselines that took part."""
    return list(dict.fromkeys(each.name for each in results if each.is_baseline))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
