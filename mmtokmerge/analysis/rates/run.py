"""What ``tools/search_rates.py`` does with its command line."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from rich.console import Console

from mmtokmerge.analysis.experiment import ResultStore, checkpoint_facts, hash_config
from mmtokmerge.analysis.front_plot import front_figure
from mmtokmerge.analysis.rates.model import count_tokens, load_mit
from mmtokmerge.analysis.rates.report import (
    HEADS,
    LEGEND,
    cells,
    config_text,
    curve_of,
    describe,
    make_rows,
)
from mmtokmerge.analysis.rates.search import RateSearch, Tested, choose
from mmtokmerge.analysis.rates.space import Merging
from mmtokmerge.engine.loading import read_config
from mmtokmerge.errors import InputError
from mmtokmerge.measure.evaluate import EvalSpec
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.measure.samples import Samples
from mmtokmerge.reporting.console import make_console, progress_bar
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import markdown_table, rich_table

RESULTS = "search.json"
MACHINE_KEYS = ("machine", "threads", "torch", "mmtokmerge")
FASTEST = "fastest"


def search_rates(args: Namespace) -> RateSearch:
    """Search, print and save.

    Raises:
        InputError: If an argument, the config or the checkpoint is wrong.
    """
    _check(args)
    cfg = read_config(args)
    if "val_evaluator" not in cfg:
        raise InputError(f"The config {args.config} has no val_evaluator.")
    own_proportional = cfg.model.get("backbone", {}).get("proportional")
    model = load_mit(cfg, args.checkpoint, args.device)
    fingerprint = hash_config(cfg)
    if args.shape:
        resize_test(cfg, (args.shape[0], args.shape[1]))
    samples = Samples(cfg, "val", args.num_images, args.seed)
    machine = describe_machine(args.device)
    store = ResultStore(args.out / RESULTS, _identity(args, fingerprint, samples, machine))
    console = make_console()
    store.say_changed(console)
    spec = EvalSpec(
        samples,
        cfg.val_evaluator,
        count_tokens,
        repeats=args.repeats,
        device=args.device,
        seed=args.seed,
    )

    @contextmanager
    def progress(merging: Merging) -> Iterator[Any]:
        words = f"setting {len(search.tested) + 1}: {describe(merging)}"
        with progress_bar(console, words, len(samples)) as advance:
            yield advance

    search = RateSearch(model, spec, store, progress, args.budget, args.seed)
    search.run()
    chosen = _chosen(search, args)
    _finish(search, chosen, console, args, machine, own_proportional is not None)
    return search


def resize_test(cfg: Config, shape: tuple[int, int]) -> None:
    """Let the test resize every image to ``shape (H, W)``, whatever it did before.

    The labels stay as they are: mmseg brings the prediction back to their size, so the mIoU of
    several shapes is of the same pixels.

    Raises:
        InputError: If the test pipeline does not begin by loading an image.
    """
    dataset: Any = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    steps = list(dataset.get("pipeline") or [])
    if not steps or "LoadImage" not in str(steps[0].get("type")):
        raise InputError(
            f"--shape needs a test_dataloader.dataset.pipeline in {cfg.filename} whose first step "
            "loads an image."
        )
    kept = [step for step in steps[1:] if "Resize" not in str(step.get("type"))]
    resize = dict(type="Resize", scale=(shape[1], shape[0]), keep_ratio=False)
    dataset.pipeline = [steps[0], resize, *kept]


def _check(args: Namespace) -> None:
    for name, value, least in (("--budget", args.budget, 0), ("--repeats", args.repeats, 1)):
        if value < least:
            raise InputError(f"{name} {value} must be at least {least}.")
    if args.shape and min(args.shape) < 1:
        raise InputError(f"--shape {args.shape[0]} {args.shape[1]} must be at least 1 x 1.")
    if not args.max_loss >= 0:
        raise InputError(f"--max-loss {args.max_loss:g} must be at least 0 points of mIoU.")
    if args.choose != FASTEST and not re.fullmatch(r"[1-9]\d*", args.choose):
        raise InputError(f"--choose {args.choose!r} must be '{FASTEST}' or a number of the table.")
    if args.name is not None and not re.fullmatch(r"[\w-]+", args.name):
        raise InputError(f"--name {args.name!r} must be of letters, digits, '_' and '-'.")
    if _config_path(args).resolve() == Path(args.config).resolve():
        raise InputError(
            f"{_config_path(args)} is the config itself: take another --name or --out."
        )


def _identity(
    args: Namespace, fingerprint: str, samples: Samples, machine: dict[str, Any]
) -> dict[str, Any]:
    """What the measurements depend on, named as a person would."""
    return {
        "config": fingerprint,
        "checkpoint": checkpoint_facts(args.checkpoint),
        "images": samples.fingerprint(),
        "shape": args.shape,
        "seed": args.seed,
        "number of repeats": args.repeats,
        "device": args.device,
        "machine or version": {key: machine[key] for key in MACHINE_KEYS},
    }


def _chosen(search: RateSearch, args: Namespace) -> Tested:
    if args.choose == FASTEST:
        return choose(search, args.max_loss)
    for each in search.tested.values():
        if each.number == int(args.choose):
            return each
    raise InputError(
        f"--choose {args.choose}: settings 1 to {len(search.tested)} were tested; they are kept, "
        "so another call takes no time."
    )


def _config_path(args: Namespace) -> Path:
    name = args.name or f"{Path(args.config).stem}_searched"
    return Path(args.out) / f"{name}.py"


def _base(args: Namespace) -> str:
    """The config as seen from the folder of the written one.

    Under a linked folder it is the whole path: MMEngine reads a relative one both with and without
    following links.
    """
    folder, config = os.path.abspath(args.out), os.path.abspath(args.config)
    linked = os.path.realpath(folder) != folder
    return Path(config if linked else os.path.relpath(config, folder)).as_posix()


def _finish(
    search: RateSearch,
    chosen: Tested,
    console: Console,
    args: Namespace,
    machine: dict[str, Any],
    resets_proportional: bool,
) -> None:
    rows, title, path = make_rows(search, chosen), _title(args), _config_path(args)
    lines = [cells(row) for row in rows]
    result = (
        f"{describe(chosen.merging)}: mIoU {chosen.miou:.2f} (no merging "
        f"{search.baseline.miou:.2f}), {chosen.speed:.2f}x the throughput of no merging"
    )
    comments = [f"Written by tools/search_rates.py. {title}.", f"{result}."]
    if args.cfg_options:
        comments.append(f"Searched with --cfg-options {args.cfg_options}: give them again.")
    text = config_text(_base(args), chosen.merging, comments, resets_proportional)
    write_bytes(path, text.encode())
    write_bytes(
        args.out / "table.md", f"{markdown_table(HEADS, lines, title)}\n{LEGEND}\n".encode()
    )
    write_bytes(args.out / "front.png", front_figure([curve_of(rows)], title))
    search.store.summarise(machine=machine, table=rows, chosen=chosen.number, config=path.name)
    console.print(rich_table(HEADS, lines, title))
    console.print(LEGEND, soft_wrap=True)
    console.print(f"Tested {len(search.tested)}; {len(search.skipped)} were only timed.")
    if chosen is search.baseline and args.choose == FASTEST:
        console.print(f"Nothing faster than no merging loses at most {args.max_loss:g} mIoU.")
    console.print(f"Chosen, number {chosen.number}: {result}.", soft_wrap=True)
    if args.cfg_options:
        console.print(f"{path.name} does not hold --cfg-options: give them with it again.")
    console.print(
        f"wrote {RESULTS}, table.md, front.png and {path.name} to {args.out}", soft_wrap=True
    )


def _title(args: Namespace) -> str:
    size = f"{args.shape[0]} x {args.shape[1]}" if args.shape else "as the test has them"
    images = f"validation images: {args.num_images or 'all'}, {size}"
    where = f"{args.device}, {torch.get_num_threads()} threads"
    return f"{Path(args.config).stem}: {images}; {where}"
