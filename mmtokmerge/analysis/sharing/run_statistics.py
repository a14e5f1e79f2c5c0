"""``tools/analyze_sharing.py statistics``: single-class superpatches of a data set (CTS)."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from mmengine.config import Config

from mmtokmerge.analysis.sharing.plot import histogram_figure
from mmtokmerge.analysis.sharing.report import check_positive, publish
from mmtokmerge.analysis.sharing.statistics import (
    Grid,
    read_percents,
    sharing_statistics,
    statistics_json,
    statistics_rows,
)
from mmtokmerge.engine.loading import read_config
from mmtokmerge.measure.samples import Samples
from mmtokmerge.reporting.console import make_console, progress_bar
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text


def count_superpatches(args: Namespace) -> None:
    """Figure 2: histogram and table of single-class superpatches."""
    for name, values in (("patch-size", [args.patch_size]), ("bins", [args.bins])):
        check_positive(name, values)
    for name in ("shape", "crop"):
        check_positive(name, getattr(args, name) or [1])
    overlays = dict(read_percents(text) for text in args.overlay)
    cfg = read_config(args)
    _use_pixel_labels(cfg)
    samples = Samples(cfg, args.split, args.num_images, args.seed)
    shape, crop = (tuple(side) if side else None for side in (args.shape, args.crop))
    grid = Grid(args.patch_size, args.border, shape, crop)
    console = make_console()
    with progress_bar(console, f"{args.split} images", len(samples)) as advance:
        shares = sharing_statistics(samples, grid, advance)
    name = Path(args.config).stem
    content = statistics_json(shares, args.bins, grid)
    title = f"Superpatches of a single class, {name}, {args.split} images: {len(shares)}"
    lines = [(share.path, share.single, share.counted, share.percent) for share in shares]
    csv = csv_text(("image", "single_class", "superpatches", "percent"), lines)
    sets = {name: content["percent_by_image"], **overlays}
    write_bytes(args.out / "statistics.png", histogram_figure(sets, args.bins, title))
    rows = statistics_rows(content)
    publish(console, args.out, "statistics", (("", "percent"), rows, title), content, csv)


def _use_pixel_labels(cfg: Config) -> None:
    """Leave out of a policy network's test what turns labels of pixels into its targets."""
    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    if "pipeline" in dataset:
        dataset.pipeline = [
            step for step in dataset.pipeline if not step["type"].endswith("GenerateSharingTargets")
        ]
