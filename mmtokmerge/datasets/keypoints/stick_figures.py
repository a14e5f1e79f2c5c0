"""A generated data set of jumping stick figures with JBD's 20 keypoints, for the demo.

The same settings give the same bytes. A set appears whole or not at all, and one that stands
already with the same settings is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmtokmerge.datasets.keypoints.coco_file import CocoFile
from mmtokmerge.datasets.keypoints.jumper_drawing import draw_jumper
from mmtokmerge.datasets.new_folder import generate_set
from mmtokmerge.errors import InputError
from mmtokmerge.reporting.files import write_image

META_FILE = "stick_figures.json"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class FigureSet:
    """The settings of a set: they alone decide its bytes.

    Args:
        train: Number of images to train on, one figure each.
        val: Number of images to validate on.
        height: The height of an image in pixels.
        width: The width of an image in pixels.
        seed: Another seed gives other figures.
        version: The version of the drawing code; a set of another version is drawn again.

    Raises:
        InputError: A number is too small.
    """

    train: int = 240
    val: int = 40
    height: int = 256
    width: int = 256
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        for name, least in dict(train=1, val=1, height=64, width=64, seed=0).items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, but must be at least {least}")


def make_stick_figures(
    root: Path, settings: FigureSet, progress: Callable[[list], Iterable] = iter
) -> bool:
    """Write ``images/{train,val}`` and ``annotations/{train,val}.json`` below ``root``.

    Args:
        root: The data set's folder. A set with other settings there is replaced.
        settings: What to draw.
        progress: Wraps the list of images to draw, to show how far it is.

    Returns:
        Whether anything was drawn: a set with these settings is kept.

    Raises:
        InputError: ``root`` holds files that are no such set.
    """

    def fill(folder: Path) -> None:
        files = {split: CocoFile() for split in SPLITS}
        jobs = [(split, index) for split in SPLITS for index in range(getattr(settings, split))]
        for split, index in progress(jobs):
            rng = np.random.default_rng([settings.seed, SPLITS.index(split), index])
            image, points = draw_jumper(rng, settings.height, settings.width)
            name = f"{index:05d}.png"
            _write(folder / "images" / split / name, image)
            files[split].add(name, (settings.width, settings.height), points, [True] * len(points))
        for split, file in files.items():
            file.write(folder / "annotations" / f"{split}.json")

    return generate_set(root, META_FILE, asdict(settings), fill)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels)
