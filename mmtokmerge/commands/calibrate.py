"""Set the threshold of ALGM from a model's own tokens: tau = mu + sigma (paper, section 3.3)."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtokmerge.commands.options import add_trained_vit
from mmtokmerge.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from mmtokmerge.analysis.thresholds.calibration import Calibration
    from mmtokmerge.merging.similarity_statistics import CosineStatistics

EXAMPLES = """\
examples:
  python tools/calibrate_threshold.py configs/algm/segmenter_vit-t_camvid_algm.py \\
      work_dirs/segmenter_vit-t_camvid_none/iter_1800.pth
  python tools/calibrate_threshold.py CONFIG CHECKPOINT --num-images 500 --out calibrated.pth
  python tools/test.py CONFIG calibrated.pth

The model runs without merging over images of the training set. They go through the test pipeline:
no random crop, flip or colour. After the attention block of every layer the cosines of all pairs of
tokens of an image enter a mean mu and a standard deviation sigma; the class token is left out, and
no pair is kept in memory. OUT holds CHECKPOINT's weights and tau for every reducer of CONFIG with
threshold='auto'; CHECKPOINT may be one that was trained without merging.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_trained_vit(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="checkpoint to write (default: CHECKPOINT's name with '_calibrated', in its folder)",
    )
    parser.add_argument(
        "--per-reducer",
        action="store_true",
        help="a threshold for each reducer, from the tokens of its own layers alone",
    )


def run(args: argparse.Namespace) -> None:
    """Calibrate, save and print.

    Raises:
        InputError: If an argument, the config or the checkpoint is wrong.
    """
    from mmtokmerge.analysis.plain_vit import auto_reducers
    from mmtokmerge.analysis.thresholds.calibration import calibrate, save_calibrated
    from mmtokmerge.engine.loading import load_model, read_config
    from mmtokmerge.measure.samples import Samples
    from mmtokmerge.models.backbones import VisionTransformer, plain_vit_of
    from mmtokmerge.reporting.console import make_console, progress_bar

    cfg = read_config(args)
    out = args.out or calibrated_path(args.checkpoint)
    check_out(out, args.checkpoint)
    loaded = load_model(
        cfg, args.checkpoint, args.device, backbone=VisionTransformer, uncalibrated=True
    )
    backbone = plain_vit_of(loaded.model.backbone)
    if not auto_reducers(backbone):
        raise InputError(
            f"Nothing to calibrate: no entry of model.backbone.reducers in {args.config} has "
            "threshold='auto'."
        )
    samples = Samples(cfg, "train", args.num_images, args.seed, labels=False)
    console = make_console()
    with progress_bar(console, "training images", len(samples)) as advance:
        found = calibrate(loaded.model, samples, advance)
    taus = found.taus(backbone, args.per_reducer)
    if not all(math.isfinite(tau) for tau in taus.values()):
        raise InputError("The images have one token each, so there are no pairs to compare.")
    within = "" if backbone is loaded.model.backbone else "vit."
    save_calibrated(out, loaded.checkpoint, taus, make_meta(found, args), within)
    show(console, found, backbone, taus, len(samples))
    console.print(f"wrote {out}", soft_wrap=True, highlight=False)


def calibrated_path(checkpoint: str) -> Path:
    """Where the result goes by default.

    Raises:
        InputError: If the checkpoint is no local file.
    """
    if "://" in checkpoint:
        raise InputError(f"--out PATH is needed, since {checkpoint} is no local file.")
    path = Path(checkpoint).expanduser()
    return path.with_name(f"{path.stem}_calibrated{path.suffix}")


def check_out(out: Path, checkpoint: str) -> None:
    """Raise InputError where the result would take the place of a folder or of the checkpoint."""
    if out.is_dir():
        raise InputError(f"--out is a folder, {out}: name the file to write.")
    if out.exists() and Path(checkpoint).exists() and out.samefile(checkpoint):
        raise InputError(f"--out is the checkpoint itself, {out}: name another file.")


def make_meta(found: Calibration, args: argparse.Namespace) -> dict[str, Any]:
    """What the checkpoint says about its thresholds."""
    return {
        "config": args.config,
        "images": found.images,
        "seed": args.seed,
        "per_reducer": args.per_reducer,
        **facts(found.pooled()),
        "layers": {layer: facts(statistics) for layer, statistics in found.layers.items()},
    }


def facts(statistics: CosineStatistics) -> dict[str, float]:
    """Mean, standard deviation and number of pairs."""
    return {"mu": statistics.mean, "sigma": statistics.std, "pairs": statistics.count}


def show(
    console: Console,
    found: Calibration,
    backbone: nn.Module,
    taus: dict[int, float],
    images: int,
) -> None:
    """Print mean and standard deviation of each layer, of all, and the thresholds."""
    from mmtokmerge.reporting.tables import rich_table

    lines = [(f"layer {layer}", each) for layer, each in sorted(found.layers.items())]
    lines.append(("all layers", found.pooled()))
    rows = [
        [
            name,
            f"{each.mean:.4f}",
            f"{each.std:.4f}",
            f"{each.mean + each.std:.4f}",
            f"{each.count:,}",
        ]
        for name, each in lines
    ]
    title = f"Cosine similarity of all token pairs, no merging, training images: {images}"
    heads = ["tokens after attention", "mean", "std", "mean + std", "pairs"]
    console.print(rich_table(heads, rows, title))
    for index, tau in taus.items():
        reducer = backbone.reducers[index]
        layers = ", ".join(map(str, reducer.layers))
        console.print(f"tau {tau:.4f} for {type(reducer).__name__} in layer {layers}")
