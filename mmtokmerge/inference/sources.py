"""The pictures, folders, globs, videos and cameras that a person names, frame by frame."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mmtokmerge.errors import InputError, UnreadableInput
from mmtokmerge.visualization.pictures import decode_picture

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@dataclass(frozen=True)
class Source:
    """One thing to predict.

    Args:
        path: The file, or a camera's number as a word.
        name: What its results are called, without suffix; may hold folders.
        is_video: Whether it holds many frames.
    """

    path: str
    name: str
    is_video: bool = False

    @property
    def is_camera(self) -> bool:
        """Whether it is a camera, which shows something else each time."""
        return self.is_video and self.path.isdigit()


def find_sources(words: Iterable[str]) -> list[Source]:
    """What is meant by files, folders, globs and camera numbers.

    Raises:
        InputError: One of them names nothing that can be read, or two would share a result's name.
    """
    found: dict[str, Source] = {}
    for word in words:
        for source in _expand(word):
            name, count = source.name, 2
            while name in found and found[name].path != source.path:
                name, count = f"{source.name}_{count}", count + 1
            found[name] = Source(source.path, name, source.is_video)
    return list(found.values())


def _expand(word: str) -> list[Source]:
    path = Path(word).expanduser()
    if word.isdigit() and not path.exists():
        return [Source(word, f"camera_{word}", True)]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES + VIDEOS)
        if not files:
            raise InputError(f"{word} is a folder without pictures or videos.")
        return [_source(p, p.relative_to(path).with_suffix("")) for p in files]
    if path.is_file():
        return [_source(path, Path(path.stem))]
    matches = sorted(glob.glob(os.path.expanduser(word), recursive=True))
    files = [Path(m) for m in matches if Path(m).suffix.lower() in PICTURES + VIDEOS]
    if not files:
        raise InputError(
            f"{word} names no picture, video or folder, no camera, and no pattern that finds one."
        )
    return [_source(p, Path(p.stem)) for p in files]


def _source(path: Path, name: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix not in PICTURES + VIDEOS:
        allowed = ", ".join(PICTURES + VIDEOS)
        raise InputError(f"{path} is no picture or video; known suffixes are {allowed}.")
    return Source(str(path), name.as_posix(), suffix in VIDEOS)


def read_picture(path: str) -> np.ndarray:
    """A picture as ``(H, W, 3)`` BGR bytes, turned as its EXIF data says.

    Gray becomes three equal channels, transparency is left out, and 16 bits are stretched to 8.

    Raises:
        InputError: The file is missing, cut off or no picture.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UnreadableInput(f"{path} cannot be read: {error.strerror}.") from error
    return decode_picture(content, path)


def frames_of(source: Source) -> Iterator[np.ndarray]:
    """The frames ``(H, W, 3)`` BGR of a picture or video.

    Raises:
        InputError: It cannot be read.
    """
    if not source.is_video:
        yield read_picture(source.path)
        return
    video = cv2.VideoCapture(int(source.path) if source.path.isdigit() else source.path)
    try:
        if not video.isOpened():
            raise UnreadableInput(f"{source.path} cannot be opened as a video or camera.")
        while True:
            read, frame = video.read()
            if not read:
                return
            yield frame
    finally:
        video.release()


def count_frames(source: Source) -> int | None:
    """How many frames a source has; None for a camera, or where the file does not say."""
    if not source.is_video:
        return 1
    if source.path.isdigit():
        return None
    video = cv2.VideoCapture(source.path)
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    video.release()
    return count if count > 0 else None


def frames_per_second(source: Source) -> float:
    """Of a video; 25 where it does not say."""
    video = cv2.VideoCapture(int(source.path) if source.path.isdigit() else source.path)
    rate = float(video.get(cv2.CAP_PROP_FPS)) if video.isOpened() else 0.0
    video.release()
    return rate if 0 < rate < 1000 else 25.0
