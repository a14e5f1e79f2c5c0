"""Results as a table on the terminal, as JSON, as CSV and as a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mmtokmerge.benchmark.options import Settings
from mmtokmerge.benchmark.result import Result
from mmtokmerge.benchmark.runtimes import TORCH
from mmtokmerge.measure.machine import slug
from mmtokmerge.reporting.files import write_text
from mmtokmerge.reporting.tables import csv_text

RESULTS = Path("benchmarks/results")
MOST_RATIOS = 3  # more have a table of their own
LONG_NAME = 12


def print_tables(results: Sequence[Result], settings: Settings, console: Console) -> None:
    """For each shape: ratios, times, memory and FLOPs; tokens kept; limits where asked for."""
    baselines = baselines_of(results)
    over = [f"over\n{_broken(name)}" for name in baselines]
    rate = "steps/s" if settings.train else "images/s"
    heads = ["batch\nsize", "median\nms", "p10 - p90\nms", rate, "peak\nMiB", "GFLOPs\n/image"]
    for shape in settings.shapes:
        rows = [each for each in results if each.shape == shape]
        title = _title(rows, shape, settings)
        ratios = [_ratios(each, baselines) for each in rows]
        measures = [_measures(each, settings.train) for each in rows]
        names = [[each.name] for each in rows]
        if len(baselines) > MOST_RATIOS:
            cells = [name + cell for name, cell in zip(names, ratios)]
            console.print(_table(["model", *over], cells, title))
            cells, title = [name + cell for name, cell in zip(names, measures)], None
            console.print(_table(["model", *heads], cells))
        else:
            cells = [[*name, *a, *b] for name, a, b in zip(names, ratios, measures)]
            console.print(_table(["model", *over, *heads], cells, title))
        extras = (_tokens_table(rows, settings), _kept_table(rows), _policy_table(rows))
        if settings.compiles or settings.runtimes != (TORCH,):
            extras = (_setup_table(rows), *extras)
        for extra in (*extras, _limit_table(rows)):
            if extra is not None:
                console.print(extra)


def _setup_table(rows: Sequence[Result]) -> Table | None:
    """Seconds that compiling or exporting took, which no other column holds."""
    cells = [[each.name, _number(each.setup, ".1f")] for each in rows if each.samples]
    return _table(["ready after", "seconds"], cells) if cells else None


def _tokens_table(rows: Sequence[Result], settings: Settings) -> Table | None:
    kept = [_kept(each) for each in rows if each.tokens]
    stages = ["queries x keys kept", *(f"stage {number}" for number in range(1, 5))]
    return _table(stages, kept) if kept and settings.part != "head" else None


def _kept_table(rows: Sequence[Result]) -> Table | None:
    """Tokens of a plain ViT after each reducer, and the share of the time that reducing takes."""
    reduced = [each for each in rows if each.kept]
    if not reduced:
        return None
    places = list(dict.fromkeys(place for each in reduced for place in each.kept))
    cells = [
        [each.name]
        + [_number(each.kept.get(place), ".1f") for place in places]
        + [_percent(each.merging_share)]
        for each in reduced
    ]
    heads = [place if place == "patches" else f"after\n{place}" for place in places]
    return _table(["tokens kept", *heads, "merging,\nof the time"], cells)


def _policy_table(rows: Sequence[Result]) -> Table | None:
    """How much of time, FLOPs and memory is the policy's; all of it is in the other columns too."""
    cells = [
        [
            each.name,
            _percent(each.policy.share),
            _number(each.policy.flops / 1e9, ".2f"),
            _percent(each.policy.flops / each.flops if each.flops else None),
            _number(each.policy.memory, ".0f"),
        ]
        for each in rows
        if each.policy is not None
    ]
    heads = ["policy, counted\nabove", "of the\ntime", "GFLOPs\n/image", "of all", "weights\nMiB"]
    return _table(heads, cells) if cells else None


def _limit_table(rows: Sequence[Result]) -> Table | None:
    limited = [(each.name, each.limits) for each in rows if each.limits is not None]
    if not limited:
        return None
    heads = ["limits", f"over\n{limited[0][1].reference}", "limit by\noperations", "reached"]
    by_shares = any(limits.shares is not None for _, limits in limited)
    heads += ["limit by\ntime shares", "reached"] * by_shares
    cells = []
    for name, limits in limited:
        known = [limits.operations, limits.shares][: 1 + by_shares]
        pairs = [(_number(limit, ".2f"), _percent(limits.reached(limit))) for limit in known]
        ratio = _number(limits.speedup, ".2f")
        cells.append([name, ratio, *(cell for pair in pairs for cell in pair)])
    return _table(heads, cells)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1))
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _kept(result: Result) -> list[str]:
    return [result.name, *(f"{queries} x {keys}" for _, queries, keys in result.tokens or [])]


def _title(rows: Sequence[Result], shape: tuple[int, int], settings: Settings) -> str:
    images = rows[0].images
    each = f", {images} images, each repeated {settings.batch_size} times" if images else ""
    return f"{title_of(settings)}, {shape[0]} x {shape[1]}{each}"


def title_of(settings: Settings) -> str:
    """What was measured, in words."""
    work = "training" if settings.train else "inference"
    compiled = ", compiled" if settings.compile else ""
    graph = ", CUDA graph" if settings.cuda_graph else ""
    return f"{settings.part}, {work}, {settings.dtype}{compiled}{graph}"


def _ratios(result: Result, baselines: Sequence[str]) -> list[str]:
    return [_number(result.speedup.get(name), ".2f") for name in baselines]


def _measures(result: Result, train: bool) -> list[str]:
    latency = result.latency
    if latency is None:
        return ["", "", result.note, "", "", ""]
    speed = result.steps_per_second if train else result.images_per_second
    return [
        str(result.batch_size),
        _number(latency.median, ".1f"),
        f"{latency.p10:.1f} - {latency.p90:.1f}",
        _number(speed, ".2f"),
        _number(result.peak_memory, ".0f"),
        _number(None if result.flops is None else result.flops / 1e9, ".2f"),
    ]


def _broken(name: str) -> str:
    """A name that may take two lines."""
    return name.replace(" ", "\n", 1) if len(name) > LONG_NAME else name


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}%"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def save_json(
    path: Path, results: Sequence[Result], settings: Settings, machine: dict[str, Any]
) -> None:
    """Write the machine, the settings, and of every result all samples and what follows of them."""
    content = dict(
        machine=machine, settings=asdict(settings), results=[_record(each) for each in results]
    )
    write_text(path, json.dumps(content, indent=1) + "\n")


def _record(result: Result) -> dict[str, Any]:
    latency = result.latency
    return {
        **asdict(result),
        "latency_ms": None if latency is None else asdict(latency),
        "images_per_second": result.images_per_second,
        "steps_per_second": result.steps_per_second,
    }


def save_csv(
    path: Path, results: Sequence[Result], settings: Settings, machine: dict[str, Any]
) -> None:
    """Write one row for each model and shape, each with the machine and the versions."""
    baselines = baselines_of(results)
    rows = [_row(result, baselines, settings, machine) for result in results]
    lines = [["" if value is None else value for value in row.values()] for row in rows]
    write_text(path, csv_text(list(rows[0]), lines))


def _row(
    result: Result, baselines: Sequence[str], settings: Settings, machine: dict[str, Any]
) -> dict[str, Any]:
    latency, speedup = result.latency, result.speedup
    tokens, limits = result.tokens or [], result.limits
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
        "steps_per_second": _rounded(result.steps_per_second),
        "peak_memory_mib": _rounded(result.peak_memory),
        "forward_flops": result.flops,
        "flops_source": result.flops_source,
        "queries_kept": " ".join(str(queries) for _, queries, _ in tokens),
        "keys_kept": " ".join(str(keys) for _, _, keys in tokens),
        "tokens_kept": " ".join(f"{place}: {n:.1f};" for place, n in result.kept.items()),
        "merging_share": _rounded(result.merging_share),
        "policy_share": _rounded(result.policy and result.policy.share),
        "policy_flops": result.policy and result.policy.flops,
        "policy_weights_mib": _rounded(result.policy and result.policy.memory),
        "limit_reference": limits and limits.reference,
        "speedup_over_limit_reference": _rounded(limits and limits.speedup),
        "limit_operations": _rounded(limits and limits.operations),
        "limit_shares": _rounded(limits and limits.shares),
        "images": result.images,
        "note": result.note,
        "dtype": settings.dtype,
        "device": settings.device,
        "compile": settings.compile,
        "setup_s": _rounded(result.setup),
        "cuda_graph": settings.cuda_graph,
        "runs": settings.runs,
        **machine,
    }


def csv_path(settings: Settings, machine: dict[str, Any]) -> Path:
    """Where results of this machine and these versions go by default."""
    words = [settings.part, machine["machine"], f"torch{machine['torch']}", settings.dtype]
    words += ["train"] * settings.train + ["compile"] * settings.compile
    words += ["graph"] * settings.cuda_graph
    words += [] if settings.runtimes == (TORCH,) else list(settings.runtimes)
    return RESULTS / f"{'_'.join(slug(word) for word in words)}.csv"


def baselines_of(results: Sequence[Result]) -> list[str]:
    """Names of the baselines that took part."""
    return list(dict.fromkeys(each.name for each in results if each.is_baseline))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
