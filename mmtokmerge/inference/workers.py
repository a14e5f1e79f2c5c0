"""What is made of one input: a segmentor's pictures, a pose estimator's keypoints."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config

from mmtokmerge.engine.loading import LoadedModel
from mmtokmerge.errors import InputError, UnreadableInput
from mmtokmerge.inference import raster
from mmtokmerge.inference.predictor import PosePredictor, SegmentationPredictor
from mmtokmerge.inference.sources import Source, count_frames, frames_of, frames_per_second
from mmtokmerge.inference.tiles import Region, count_tiles, predict_regions, predict_tiles
from mmtokmerge.models.overrides import merging_as, without_merging
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


def last_result(args: Namespace, source: Source, is_pose: bool) -> Path:
    """The file of a source's results that is written last."""
    name = args.out / source.name
    if source.is_video:
        return Path(f"{name}_overlay.mp4")
    if is_pose:
        return Path(f"{name}{KEYPOINTS}")
    return Path(f"{name}{LABELS}").with_suffix(".tif" if as_tiff(source) else ".png")


def as_tiff(source: Source) -> bool:
    """Whether a source's results are TIFFs, with its georeference."""
    return raster.is_tiff(source.path) and by_windows(source)


def by_windows(source: Source) -> bool:
    """Whether a source can be read window by window."""
    return not source.is_video and raster.is_installed() and not raster.is_turned(source.path)


class Worker(ABC):
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


class SegmentationWorker(Worker):
    def __init__(self, loaded: LoadedModel, cfg: Config, args: Namespace) -> None:
        super().__init__(loaded, cfg, args)
        self.predictor = SegmentationPredictor(self.model, cfg)

    def steps(self, source: Source) -> int:
        if source.is_video or not self.args.tile:
            return super().steps(source)
        try:
            if by_windows(source):
                with raster.Raster(source.path) as picture:
                    shape: tuple[int, ...] = picture.shape
            else:
                shape = next(iter(frames_of(source))).shape
        except UnreadableInput:  # said when its turn comes
            return 0
        return count_tiles(shape, self.args.tile, self.args.overlap)

    def run(self, source: Source, advance: Callable[[], None]) -> int:
        in_tiles = self.args.tile and not self.args.compare
        if as_tiff(source) or (in_tiles and by_windows(source)):
            self._raster(source, advance)
            return 1
        return super().run(source, advance)

    def _raster(self, source: Source, advance: Callable[[], None]) -> None:
        """Write the results window by window, in tiles without ever holding the whole picture."""
        suffix = ".tif" if as_tiff(source) else ".png"
        overlay, labels = (
            Path(f"{self.out / source.name}{kind}").with_suffix(suffix)
            for kind in (OVERLAY, LABELS)
        )
        kind = np.uint8 if len(self.predictor.classes) < 256 else np.uint16
        with raster.Raster(source.path) as picture:
            unknown = int(np.iinfo(kind).max) if picture.file.nodata is not None else None
            with (
                raster.written(labels, picture, 1, kind, unknown) as write_labels,
                raster.written(overlay, picture, 3, np.uint8) as write_overlay,
            ):
                for rows, columns, pixels, found in self._regions(picture, source, advance):
                    ids = found.astype(kind)
                    missing = picture.unknown(rows, columns)
                    if missing is not None:
                        ids[missing] = unknown
                    drawn = colour_labels(pixels[..., ::-1], ids, self.predictor.palette, 0.5)
                    write_overlay(rows, columns, drawn)
                    write_labels(rows, columns, ids)

    def _regions(
        self, picture: raster.Raster, source: Source, advance: Callable[[], None]
    ) -> Iterable[Region]:
        if self.args.tile and not self.args.compare:
            size, overlap = self.args.tile, self.args.overlap
            return predict_regions(
                picture.shape, picture.read, self.predictor.scores, size, overlap, advance
            )
        rows, columns = (slice(0, side) for side in picture.shape)
        pixels = picture.read(rows, columns)
        labels = self._labels(pixels, advance)
        self._figures(pixels, labels, source.name)
        return [Region(rows, columns, pixels, labels)]

    def picture(self, picture: np.ndarray, name: str, advance: Callable[[], None]) -> None:
        rgb = picture[..., ::-1]
        labels = self._labels(picture, advance)
        kind = np.uint8 if len(self.predictor.classes) <= 256 else np.uint16
        write_picture(
            self.out / f"{name}{OVERLAY}", colour_labels(rgb, labels, self.predictor.palette, 0.5)
        )
        self._figures(picture, labels, name)
        write_picture(self.out / f"{name}{LABELS}", labels.astype(kind))

    def _figures(self, picture: np.ndarray, labels: np.ndarray, name: str) -> None:
        if self.args.tokens:
            self._tokens(picture, name)
        if self.args.compare:
            self._compare(picture, labels, name)

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


class PoseWorker(Worker):
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
