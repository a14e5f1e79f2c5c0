"""What ``tools/search_threshold.py`` does with its command line."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from rich.console import Console

from mmtokmerge.analysis.experiment import ResultStore, checkpoint_facts, hash_config
from mmtokmerge.analysis.front_plot import Curve, front_figure
from mmtokmerge.analysis.plain_vit import (
    check_searchable,
    configured_value,
    count_tokens,
    lacks_threshold,
)
from mmtokmerge.analysis.thresholds.report import (
    STAR,
    Row,
    cells,
    curve_of,
    heads,
    make_rows,
    read_curve,
)
from mmtokmerge.analysis.thresholds.search import (
    Search,
    Target,
    describe,
    even_steps,
)
from mmtokmerge.engine.loading import load_model, read_config
from mmtokmerge.errors import InputError
from mmtokmerge.measure.evaluate import EvalSpec
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.measure.samples import Samples
from mmtokmerge.models.backbones import VisionTransformer
from mmtokmerge.models.overrides import NUM_MERGED, THRESHOLD
from mmtokmerge.reporting.console import make_console, progress_bar
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text, markdown_table, rich_table

RESULTS = "search.json"
MACHINE_KEYS = ("machine", "threads", "torch", "mmtokmerge")


def search_threshold(args: Namespace) -> list[Row]:
    """Measure, print and save.

    Raises:
        InputError: If an argument, the config or a checkpoint is wrong.
    """
    name, values = read_values(args)
    overlays = [read_overlay(text) for text in args.overlay]
    cfg = read_config(args)
    model = load_model(
        cfg, args.checkpoint, args.device, backbone=VisionTransformer, uncalibrated=True
    ).model
    check_searchable(model.backbone, name, args.config)
    baseline = model
    if args.baseline_checkpoint is not None:
        baseline = load_model(
            cfg,
            args.baseline_checkpoint,
            args.device,
            backbone=VisionTransformer,
            uncalibrated=True,
        ).model
    shape = tuple(args.shape) if args.shape else None
    samples = Samples(cfg, "test", args.num_images, args.seed)
    machine = describe_machine(args.device)
    store = ResultStore(args.out / RESULTS, _identity(args, cfg, samples, machine))
    console = make_console()
    store.say_changed(console)
    if "test_evaluator" not in cfg:
        raise InputError(f"The config {args.config} has no test_evaluator.")
    spec = EvalSpec(
        samples, cfg.test_evaluator, count_tokens, shape, args.repeats, args.device, args.seed
    )
    search = Search(model, baseline, spec, store, partial(_progress, console, len(samples)), name)
    rows, targets = _run(search, values, args)
    store.summarise(machine=machine, table=[row.to_json() for row in rows])
    _show(console, rows, targets, name, args)
    _save(args.out, rows, [curve_of("this search", store.content["table"]), *overlays], args)
    console.print(
        f"wrote {RESULTS}, search.csv, table.md and front.png to {args.out}", soft_wrap=True
    )
    return rows


def read_values(args: Namespace) -> tuple[str, list[float]]:
    """What is searched over, and the values to measure.

    Raises:
        InputError: If the options contradict each other or a value is out of range.
    """
    if args.repeats < 1 or args.refine < 0:
        raise InputError(
            f"--repeats {args.repeats} must be at least 1 and --refine {args.refine} at least 0."
        )
    if args.shape and min(args.shape) < 1:
        raise InputError(f"--shape {args.shape[0]} {args.shape[1]} must be at least 1 x 1.")
    if any(speed <= 0 for speed in args.target_speedup):
        raise InputError("--target-speedup takes numbers above 0, such as 1.5 for 50% more.")
    if args.num_merged:
        if args.taus or args.steps is not None or args.target_speedup:
            raise InputError(
                "--num-merged searches ToMe's number: it goes without --taus, --steps and "
                "--target-speedup."
            )
        if min(args.num_merged) < 1:
            raise InputError(f"--num-merged {min(args.num_merged)} must be at least 1.")
        return NUM_MERGED, sorted(set(args.num_merged))
    if args.taus and args.steps is not None:
        raise InputError("Give --taus or --steps, not both.")
    if args.steps is not None and args.steps < 1:
        raise InputError(f"--steps {args.steps} must be at least 1.")
    low, high = args.range
    values = args.taus or even_steps(low, high, 11 if args.steps is None else args.steps)
    for tau in values:
        if not -1 <= tau <= 1:
            raise InputError(f"tau {tau:g} is no threshold for a cosine: take -1 to 1.")
    return THRESHOLD, sorted({round(tau, 6) for tau in values}, reverse=True)


def read_overlay(text: str) -> Curve:
    """Read ``NAME=JSON``.

    Raises:
        InputError: If it is something else or the file holds no finished search.
    """
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise InputError(f"--overlay {text!r} must be NAME=JSON, such as ToMe=tome/search.json.")
    return read_curve(name, Path(path))


def _identity(
    args: Namespace, cfg: Config, samples: Samples, machine: dict[str, Any]
) -> dict[str, Any]:
    """What the measurements depend on, named as a person would."""
    baseline = args.baseline_checkpoint
    return {
        "config": hash_config(cfg),
        "checkpoint": checkpoint_facts(args.checkpoint),
        "baseline checkpoint": None if baseline is None else checkpoint_facts(baseline),
        "images": samples.fingerprint(),
        "shape": args.shape,
        "number of repeats": args.repeats,
        "device": args.device,
        "machine or version": {key: machine[key] for key in MACHINE_KEYS},
    }


def _run(
    search: Search, values: Sequence[float], args: Namespace
) -> tuple[list[Row], list[Target]]:
    baseline = search.run_baseline()
    backbone = search.model.backbone
    own = configured_value(backbone, search.name)
    configured = None
    if own is None and not lacks_threshold(backbone):
        configured = search.run_configured()
    for value in (*([] if own is None else [own]), *values):
        search.run(value)
    if search.name == THRESHOLD:
        search.refine(baseline.miou, args.refine)
    targets = [search.reach(speed) for speed in args.target_speedup]
    rows = make_rows(search, baseline, configured, own, targets)
    return rows, targets


@contextmanager
def _progress(console: Console, total: int, words: str) -> Iterator[Any]:
    with progress_bar(console, words, total) as advance:
        yield advance


def _show(
    console: Console, rows: Sequence[Row], targets: Sequence[Target], name: str, args: Namespace
) -> None:
    console.print(rich_table(heads(rows), [cells(row) for row in rows], _title(args)))
    if not any(STAR[name] in row.note.split(", ") for row in rows):
        console.print(f"No {name} that was measured keeps the baseline's mIoU.")
    for target in targets:
        if target.found is None:
            console.print(f"No threshold measured is {target.speed:g} times as fast.")
        else:
            label = describe(target.found.values)
            console.print(
                f"{target.speed:g}x wanted: {label} is {target.found.speed:.2f}x as fast with mIoU "
                f"{target.found.miou:.2f}."
            )


def _save(out: Path, rows: Sequence[Row], curves: Sequence[Curve], args: Namespace) -> None:
    markdown = markdown_table(heads(rows), [cells(row) for row in rows], _title(args))
    write_bytes(out / "table.md", markdown.encode())
    records = [row.to_json() for row in rows]
    columns = list(dict.fromkeys(key for record in records for key in record))
    lines = [[record.get(key, "") for key in columns] for record in records]
    write_bytes(out / "search.csv", csv_text(columns, lines).encode())
    write_bytes(out / "front.png", front_figure(curves, _title(args), front_only=len(curves) > 1))


def _title(args: Namespace) -> str:
    images = f"test images: {args.num_images or 'all'}"
    size = f", speed at {args.shape[0]} x {args.shape[1]}" if args.shape else ""
    where = f"{args.device}, {torch.get_num_threads()} threads"
    return f"{Path(args.config).stem}: {images}{size}, {where}"
