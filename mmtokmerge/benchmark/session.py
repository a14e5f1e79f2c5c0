"""One run of the benchmark: from the options of the command line to tables and files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import Progress

from mmtokmerge.benchmark.baselines import FIRST, has_stock
from mmtokmerge.benchmark.candidates import Candidate, build_candidates
from mmtokmerge.benchmark.images import find_images
from mmtokmerge.benchmark.limit import reference_of
from mmtokmerge.benchmark.options import Settings, Shape, read_batch_size, read_shapes
from mmtokmerge.benchmark.over_images import run_over_images
from mmtokmerge.benchmark.peers.models import read_peers
from mmtokmerge.benchmark.plot import save_plot
from mmtokmerge.benchmark.report import csv_path, print_tables, save_csv, save_json
from mmtokmerge.benchmark.result import Result
from mmtokmerge.benchmark.run import run
from mmtokmerge.benchmark.token_fractions import check_fractions, threshold_reducers
from mmtokmerge.engine.launch import load_config
from mmtokmerge.errors import InputError
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.reporting.console import make_console

BASELINES = {"stock": "stock", "fused": "stock fused"}
VALIDATION_SET = ""  # what --images without a folder stands for


def benchmark(args: Namespace) -> list[Result]:
    """Build, time, print and save.

    Raises:
        InputError: If an argument or a config is wrong, or a model cannot run.
    """
    # mmengine logs three lines for each parameter of an optimizer.
    MMLogger.get_current_instance().setLevel("WARNING")
    configs = [(path, load_config(path, args.cfg_options)) for path in args.configs]
    _check_images(args)
    settings = Settings(
        shapes=read_shapes(args.shape) if args.shape else (_size(*configs[0]),),
        batch_size=args.repeat or read_batch_size(args.batch_size),
        dtype=args.dtype,
        device=args.device,
        part=args.part,
        train=args.train,
        compile=args.compile,
        cuda_graph=args.cuda_graph,
        limit=args.limit,
        runtimes=tuple(args.runtime),
        kept=tuple(args.kept),
        runs=args.runs,
        warmup=args.warmup,
        threads=args.threads,
    )
    words = args.baselines
    if words is None:
        words = ["stock", "fused"] if has_stock(configs[0][1].model) else [FIRST]
    baselines = read_baselines(words, settings.part)
    peers = read_peers(args.peers)
    if args.plot is not None:
        _check_plot(args.plot, baselines)
    paths = None
    if args.images is not None:
        folder = None if args.images == VALIDATION_SET else args.images
        paths = find_images(folder, *configs[0], args.num_images, settings.seed)
    candidates = build_candidates(configs, baselines, settings, peers, args.checkpoint)
    if settings.limit:
        reference_of(candidates)
    check_thresholds(candidates, settings, paths is not None and args.checkpoint is not None)
    console = make_console()
    with Progress(console=console, transient=True) as progress:
        total = len(settings.shapes) * len(candidates) * settings.runs * len(paths or [None])
        bar = progress.add_task("timing", total=total)

        def advance() -> None:
            progress.advance(bar)

        if paths is None:
            results = run(candidates, settings, advance=advance)
        else:
            results = run_over_images(candidates, settings, paths, advance=advance)
    print_tables(results, settings, console)
    _save(args, results, settings, console)
    return results


def _check_images(args: Namespace) -> None:
    """Raise InputError where an argument does nothing without ``--images``, or works against it."""
    if args.images is None:
        for name in ("repeat", "num_images"):
            if getattr(args, name) is not None:
                option = name.replace("_", "-")
                raise InputError(f"--{option} goes with --images: it does nothing without.")
        return
    if args.runtime != ["torch"]:
        raise InputError("--runtime makes a file for each --shape, so it cannot go with --images.")
    if args.train:
        raise InputError("--images times inference, so it cannot go with --train.")
    if args.batch_size != "1":
        raise InputError("--batch-size does nothing with --images: --repeat sets the batch.")
    if args.repeat is None:
        args.repeat = 1


def check_thresholds(candidates: Sequence[Candidate], settings: Settings, on_images: bool) -> None:
    """Raise InputError where how much is merged would depend on noise or on untrained weights.

    Args:
        candidates: Whose reducers are looked at.
        settings: Say whether fractions are given.
        on_images: Whether there are real images and trained weights.
    """
    with_threshold = [each for each in candidates if threshold_reducers(each.model.backbone)]
    if settings.kept and not with_threshold:
        raise InputError("--kept sets thresholds, but no config has a reducer with one.")
    for candidate in with_threshold:
        reducers = threshold_reducers(candidate.model.backbone)
        if settings.kept:
            check_fractions(candidate.model.backbone, settings.kept, candidate.name)
        elif not on_images:
            raise InputError(
                f"how many tokens {candidate.name} keeps follows from its weights and the images: "
                "give --checkpoint and --images, or --kept with a fraction for each of its "
                f"{len(reducers)} thresholds."
            )
        elif any(bool(each.tau.isnan()) for each in reducers):
            raise InputError(
                f"the checkpoint holds no thresholds for {candidate.name}: give one that "
                "tools/calibrate_threshold.py wrote, or --kept."
            )


def read_baselines(words: Sequence[str], part: str) -> list[str]:
    """Read ``--baselines``; a head has no fused attention, so its only baseline is 'stock'.

    Raises:
        InputError: If a name is unknown or 'none' has company.
    """
    if list(words) == ["none"]:
        return []
    if list(words) == [FIRST]:
        return [FIRST]
    for word in words:
        if word not in BASELINES:
            raise InputError(
                f"--baselines {word!r} is unknown, allowed are stock and fused, or first or none "
                "alone."
            )
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
