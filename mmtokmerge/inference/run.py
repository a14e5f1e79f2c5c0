"""Predict all that a person named: shared out among processes, kept as it comes, resumed."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config

from mmtokmerge.deploy.runtimes import is_exported
from mmtokmerge.engine.loading import LoadedModel, load_model, read_config
from mmtokmerge.errors import InputError, UnreadableInput
from mmtokmerge.inference.predictor import PosePredictor, SegmentationPredictor
from mmtokmerge.inference.records import Records
from mmtokmerge.inference.sources import (
    Source,
    count_frames,
    find_sources,
    frames_of,
    frames_per_second,
)
from mmtokmerge.inference.tiles import count_tiles, predict_tiles
from mmtokmerge.models.overrides import merging_as, without_merging
from mmtokmerge.reporting.console import make_console, progress_bar
from mmtokmerge.reporting.files import write_json
from mmtokmerge.visualization import difference_figure, encode_one, token_figure
from mmtokmerge.visualization.differences import colour_labels, differing
from mmtokmerge.visualization.pictures import write_picture

OVERLAY, LABELS, KEYPOINTS, TOKENS, COMPARE = (
    "_overlay.png",
    "_labels.png",
    "_keypoints.json",
    "_tokens.png",
    "_compare.png",
)


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
        if args.again or not records.finished(source, last_result(args.out, source, is_pose))
    ]
    other = sum(records.made_otherwise(source) for source in left)
    if other and not args.again:
        console.print(f"{other} of {len(mine)} are there with other settings and are made anew")
    if len(left) < len(mine):
        console.print(f"{len(mine) - len(left)} of {len(mine)} are there already (--again redoes)")
    loaded = load_model(cfg, args.checkpoint, own_device(args.device), exported=True)
    worker = (_Pose if is_pose else _Segmentation)(loaded, cfg, args)
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


def last_result(out: Path, source: Source, is_pose: bool) -> Path:
    """The file of a source's results that is written last."""
    if source.is_video:
        return out / f"{source.name}_overlay.mp4"
    return out / f"{source.name}{KEYPOINTS if is_pose else LABELS}"


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


class _Worker(ABC):
    """What segmentation and pose share: frames, videos, and what is written of them."""

    def __init__(self, loaded: LoadedModel, cfg: Config, args: Namespace) -> None:
        self.model = loaded.model
        self.cfg = cfg
        self.args = args
        self.out: Path = args.out

    def steps(self, source: Source) -> int:
        return count_frames(source) or 0

    def run(self, source: Source, advance: Callable[[], None]) -> int:
        if not source.is_video:
            for picture in frames_of(source):
                self.picture(picture, source.name, advance)
            return 1
        return self._video(source, advance)

    @abstractmethod
    def picture(self, picture: np.ndarray, name: str, advance: Callable[[], None]) -> None:
        """Write what is found in one picture under ``name``."""

    @abstractmethod
    def overlay(self, picture: np.ndarray) -> tuple[np.ndarray, Any]:
        """The overlay ``(H, W, 3)`` RGB of a frame, and what goes into the JSON."""

    def _video(self, source: Source, advance: Callable[[], None]) -> int:
        path = self.out / f"{source.name}_overlay.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        rate, writer, rows = frames_per_second(source), None, []
        try:
            for count, frame in enumerate(frames_of(source), 1):
                drawn, row = self.overlay(frame)
                if writer is None:
                    code = cv2.VideoWriter.fourcc(*"mp4v")
                    writer = cv2.VideoWriter(str(path), code, rate, drawn.shape[1::-1])
                    if not writer.isOpened():
                        raise InputError(f"Cannot write {path}: OpenCV has no MP4 encoder here.")
                writer.write(np.ascontiguousarray(drawn[..., ::-1]))
                rows.append(row)
                advance()
                if self.args.max_frames and count >= self.args.max_frames:
                    break
        finally:
            if writer is not None:
                writer.release()
        if rows and rows[0] is not None:
            write_json(self.out / f"{source.name}{KEYPOINTS}", rows)
        return len(rows)


class _Segmentation(_Worker):
    def __init__(self, loaded: LoadedModel, cfg: Config, args: Namespace) -> None:
        super().__init__(loaded, cfg, args)
        self.predictor = SegmentationPredictor(self.model, cfg)

    def steps(self, source: Source) -> int:
        if source.is_video or not self.args.tile:
            return super().steps(source)
        try:
            shape = next(iter(frames_of(source))).shape
        except UnreadableInput:  # said when its turn comes
            return 0
        return count_tiles(shape, self.args.tile, self.args.overlap)

    def picture(self, picture: np.ndarray, name: str, advance: Callable[[], None]) -> None:
        rgb = picture[..., ::-1]
        labels = self._labels(picture, advance)
        kind = np.uint8 if len(self.predictor.classes) <= 256 else np.uint16
        write_picture(
            self.out / f"{name}{OVERLAY}", colour_labels(rgb, labels, self.predictor.palette, 0.5)
        )
        if self.args.tokens:
            self._tokens(picture, name)
        if self.args.compare:
            self._compare(picture, labels, name)
        write_picture(self.out / f"{name}{LABELS}", labels.astype(kind))

    def _labels(
        self, picture: np.ndarray, advance: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        if self.args.tile:
            return predict_tiles(
                picture, self.predictor.scores, self.args.tile, self.args.overlap, advance
            )
        labels = self.predictor.labels(picture)
        advance()
        return labels

    def overlay(self, picture: np.ndarray) -> tuple[np.ndarray, Any]:
        labels = self.predictor.labels(picture)
        return colour_labels(picture[..., ::-1], labels, self.predictor.palette, 0.5), None

    def _tokens(self, picture: np.ndarray, name: str) -> None:
        pixels, records, note = encode_one(self.model, self.predictor.batch(picture))
        if not records:
            raise InputError(f"--tokens: the model of {self.cfg.filename} merges nothing.")
        seen = pixels.permute(1, 2, 0).byte().cpu().numpy()
        write_picture(self.out / f"{name}{TOKENS}", token_figure(seen, records, note or name))

    def _compare(self, picture: np.ndarray, labels: np.ndarray, name: str) -> None:
        other = self.args.compare
        context: Any = nullcontext()
        if other == "none":
            context = without_merging(self.model)
        elif other:
            context = merging_as(self.model, other)
        with context:
            reference = self._labels(picture)
        changed = 100 * float(differing(labels, reference).mean())
        figure = difference_figure(
            np.ascontiguousarray(picture[..., ::-1]),
            (reference, labels),
            (f"merging='{other}'", "as configured"),
            self.predictor.classes,
            self.predictor.palette,
            f"{name}: {changed:.2f}% of the pixels differ",
        )
        write_picture(self.out / f"{name}{COMPARE}", figure)


class _Pose(_Worker):
    def __init__(self, loaded: LoadedModel, cfg: Config, args: Namespace) -> None:
        super().__init__(loaded, cfg, args)
        self.predictor = PosePredictor(self.model, cfg)
        from mmpose.registry import VISUALIZERS

        self.visualizer = VISUALIZERS.build(dict(type="mmpose.PoseLocalVisualizer", name="predict"))
        self.visualizer.set_dataset_meta(self.predictor.meta)

    def picture(self, picture: np.ndarray, name: str, advance: Callable[[], None]) -> None:
        drawn, row = self.overlay(picture)
        advance()
        write_picture(self.out / f"{name}{OVERLAY}", drawn)
        write_json(self.out / f"{name}{KEYPOINTS}", row)

    def overlay(self, picture: np.ndarray) -> tuple[np.ndarray, Any]:
        drawn = np.ascontiguousarray(picture[..., ::-1])
        rows = []
        for sample in self.predictor.keypoints(picture):
            found = sample.pred_instances
            drawn = self.visualizer._draw_instances_kpts(drawn, found, self.args.min_score)
            rows.append(
                {
                    "keypoints": np.asarray(found.keypoints).reshape(-1, 2).round(2).tolist(),
                    "scores": np.asarray(found.keypoint_scores).reshape(-1).round(4).tolist(),
                }
            )
        return drawn, json.loads(json.dumps(rows))
