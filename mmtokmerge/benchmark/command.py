"""What ``tools/benchmark.py`` does with its command line."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import Progress

from mmtokmerge.benchmark.contestants import build_contestants
from mmtokmerge.benchmark.machine import describe_machine
from mmtokmerge.benchmark.plot import save_plot
from mmtokmerge.benchmark.report import csv_path, print_tables, save_csv, save_json
from mmtokmerge.benchmark.run import Result, run
from mmtokmerge.benchmark.settings import Settings, Shape, read_batch_size, read_shapes
from mmtokmerge.engine.launch import load_config
from mmtokmerge.errors import InputError

WIDTH_OF_FILES = 120
BASELINES = {"stock": "stock", "fused": "stock fused"}


def benchmark(args: Namespace) -> list[Result]:
    """Build, time, print and save.

    Raises:
        InputError: If an argument or a config is wrong, or a model cannot run.
    """
    # mmengine logs three lines for each parameter of an optimizer.
    MMLogger.get_current_instance().setLevel("WARNING")
    configs = [(path, load_config(path, args.cfg_options)) for path in args.configs]
    settings = Settings(
        shapes=read_shapes(args.shape) if args.shape else (_size(*configs[0]),),
        batch_size=read_batch_size(args.batch_size),
        dtype=args.dtype,
        device=args.device,
        part=args.part,
        train=args.train,
        compile=args.compile,
        runs=args.runs,
        warmup=args.warmup,
        threads=args.threads,
    )
    baselines = read_baselines(args.baselines, settings.part)
    if args.plot is not None:
        _check_plot(args.plot, baselines)
    contestants = build_contestants(configs, baselines, settings)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    with Progress(console=console, transient=True) as progress:
        total = len(settings.shapes) * len(contestants) * settings.runs
        bar = progress.add_task("timing", total=total)
        results = run(contestants, settings, advance=lambda: progress.advance(bar))
    print_tables(results, settings, console)
    _save(args, results, settings, console)
    return results


def read_baselines(words: Sequence[str], part: str) -> list[str]:
    """Read ``--baselines``; a head has no fused attention, so its only baseline is 'stock'.

    Raises:
        InputError: If a name is unknown or 'none' has company.
    """
    if list(words) == ["none"]:
        return []
    for word in words:
        if word not in BASELINES:
            raise InputError(f"--baselines {word!r} is unknown, allowed are stock, fused or none.")
    names = [name for word, name in BASELINES.items() if word in words]
    return ["stock"] if part == "head" else names


def _size(path: str, cfg: Config) -> Shape:
    size = cfg.model.get("data_preprocessor", {}).get("size")
    if size is None:
        raise InputError(f"--shape is needed: {path} sets no model.data_preprocessor.size.")
    return (size[0], size[1])


def _check_plot(path: Path, baselines: Sequence[str]) -> None:
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"--plot {path} must end in .png, .pdf or .svg.")
    if not baselines:
        raise InputError("--plot draws speed-ups and needs a baseline, but --baselines is none.")


def _save(args: Namespace, results: Sequence[Result], settings: Settings, console: Console) -> None:
    machine = describe_machine(settings.device)
    machine["threads"] = settings.threads or machine["threads"]
    written = []
    if args.json is not None:
        save_json(args.json, results, settings, machine)
        written.append(args.json)
    if args.csv is not None:
        path = csv_path(settings, machine) if args.csv == Path() else args.csv
        save_csv(path, results, settings, machine)
        written.append(path)
    if args.plot is not None:
        save_plot(args.plot, results, settings, machine["machine"])
        written.append(args.plot)
    for path in written:
        console.print(f"wrote {path}")
