"""Predict all that a person named: shared out among processes, kept as it comes, resumed."""

from __future__ import annotations

import os
import time
from argparse import Namespace

from mmengine.config import Config

from mmtokmerge.checks import did_you_mean
from mmtokmerge.deploy.runtimes import is_exported
from mmtokmerge.engine.loading import load_model, read_config
from mmtokmerge.errors import InputError, UnreadableInput
from mmtokmerge.inference import raster
from mmtokmerge.inference.records import Records
from mmtokmerge.inference.sources import Source, find_sources
from mmtokmerge.inference.workers import PoseWorker, SegmentationWorker, last_result
from mmtokmerge.merging.segformer.presets import PRESETS
from mmtokmerge.reporting.console import make_console, progress_bar


def predict(args: Namespace) -> dict[str, float]:
    """Predict, draw and save.

    Returns:
        How many frames were predicted, and the seconds that it took.

    Raises:
        InputError: An argument, the config, the checkpoint or an input is wrong.
    """
    sources = find_sources(args.inputs)
    cfg = read_config(args)
    is_pose = cfg.get("default_scope") == "mmpose"
    if is_pose and (args.tile or args.compare):
        raise InputError("--tile and --compare are for segmentation, but this config is of pose.")
    if is_exported(args.checkpoint) and (args.tokens or args.compare):
        raise InputError(
            f"--tokens and --compare look into a model, and {args.checkpoint} is an exported file."
        )
    refuse_for_these(args, sources, is_pose)
    mine = share(sources)
    console = make_console()
    records = Records(args.out, args)
    left = [
        source
        for source in mine
        if args.again or not records.finished(source, last_result(args, source, is_pose))
    ]
    other = sum(records.made_otherwise(source) for source in left)
    if other and not args.again:
        console.print(
            f"{other} of {len(mine)} are there of another input or other settings and are made anew"
        )
    if len(left) < len(mine):
        console.print(f"{len(mine) - len(left)} of {len(mine)} are there already (--again redoes)")
    if not is_pose and not raster.is_installed() and any(raster.is_tiff(s.path) for s in left):
        console.print(
            f"TIFFs are read without georeference, and whole; {raster.INSTALL} changes both",
            soft_wrap=True,
            markup=False,
        )
    if args.compare:
        check_compare(args.compare, cfg)
    loaded = load_model(cfg, args.checkpoint, own_device(args.device), exported=True)
    worker = (PoseWorker if is_pose else SegmentationWorker)(loaded, cfg, args)
    total = sum(worker.steps(source) for source in left)
    start, frames = time.monotonic(), 0
    broken: list[str] = []
    with progress_bar(console, "predicting", total, "steps") as advance:
        for source in left:
            try:
                frames += worker.run(source, advance)
            except UnreadableInput as error:
                broken.append(str(error))
            else:
                records.write(source)
    seconds = time.monotonic() - start
    console.print(
        f"{frames} pictures or frames in {seconds:.1f} s, {frames / max(seconds, 1e-9):.2f} a "
        f"second; results in {args.out}",
        soft_wrap=True,
    )
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise InputError(f"{len(broken)} of {len(left)} inputs were left out: {broken[0]}{more}")
    return {"frames": frames, "seconds": seconds}


def check_compare(word: str, cfg: Config) -> None:
    """Raise InputError where ``--compare`` names nothing that the config's backbone can do."""
    kind = str(cfg.model.backbone.get("type", ""))
    allowed = ("none", *PRESETS) if kind.endswith("MiTPlusPlus") else ("none",)
    if word not in allowed:
        raise InputError(
            f"--compare {word}: the config's {kind or 'backbone'} can be compared with "
            f"{', '.join(allowed)}{did_you_mean(word, allowed)}"
        )


def refuse_for_these(args: Namespace, sources: list[Source], is_pose: bool) -> None:
    """Raise InputError where an option would do nothing for an input, or not what it says."""
    if args.tokens and args.tile:
        raise InputError(
            "--tokens draws what merges in one whole picture: it does not go with --tile."
        )
    if args.tokens and is_pose:
        raise InputError("--tokens draws a segmentor's tokens, but this config is of pose.")
    video = next((source for source in sources if source.is_video), None)
    for name in ("tokens", "compare", "tile"):
        if video is not None and getattr(args, name):
            raise InputError(f"--{name} is for pictures, but {video.path} is a video or camera.")


def own_device(device: str) -> str:
    """The device of this process: under torchrun or Slurm each takes a GPU of its own."""
    rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    return f"cuda:{rank}" if device == "cuda" and rank is not None else device


def share(sources: list[Source]) -> list[Source]:
    """This process's part of the sources under torchrun or Slurm, none of them twice."""
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))
    world = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1)))
    return sources[rank::world]
