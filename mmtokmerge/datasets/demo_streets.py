"""A generated data set of street scenes in Cityscapes' folders and classes, for the demo.

The same settings give the same bytes. A set appears whole or not at all, and one that stands
already with the same settings is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmtokmerge.datasets.new_folder import generate_set
from mmtokmerge.datasets.streets.scene import draw_street
from mmtokmerge.errors import InputError
from mmtokmerge.reporting.files import write_image

META_FILE = "demo_streets.json"
CITIES = {"train": "northport", "val": "southmill"}
SMALLEST_SIDE = 32


@dataclass(frozen=True)
class StreetSet:
    """The settings of a set: they alone decide its bytes.

    Args:
        train: Number of images to train on.
        val: Number of images to validate on.
        height: The height of an image in pixels.
        width: The width of an image in pixels.
        seed: Another seed gives other streets.
        version: The version of the drawing code; a set of another version is drawn again.

    Raises:
        InputError: A number is too small.
    """

    train: int = 120
    val: int = 20
    height: int = 512
    width: int = 1024
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        least = {"train": 1, "val": 1, "height": SMALLEST_SIDE, "width": SMALLEST_SIDE, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"{name} is {getattr(self, name)}, but must be at least {bound}")


def make_demo_streets(
    root: Path, settings: StreetSet, progress: Callable[[list], Iterable] = iter
) -> bool:
    """Write ``leftImg8bit/{train,val}`` and ``gtFine/{train,val}`` below ``root``.

    Args:
        root: The data set's folder. A set with other settings there is replaced.
        settings: What to draw.
        progress: Wraps the list of images to draw, to show how far it is.

    Returns:
        Whether anything was drawn: a set with these settings is kept.

    Raises:
        InputError: ``root`` holds files that are no demo set.
    """

    def fill(folder: Path) -> None:
        jobs = [(split, i) for split in CITIES for i in range(getattr(settings, split))]
        for split, index in progress(jobs):
            _write_street(folder, settings, split, index)

    return generate_set(root, META_FILE, asdict(settings), fill)


def _write_street(root: Path, settings: StreetSet, split: str, index: int) -> None:
    rng = np.random.default_rng([settings.seed, list(CITIES).index(split), index])
    image, label = draw_street(rng, settings.height, settings.width)
    city = CITIES[split]
    stem = f"{city}_{index:06d}_000000"
    for folder, suffix, pixels in (
        ("leftImg8bit", "leftImg8bit", image),
        ("gtFine", "gtFine_labelTrainIds", label),
    ):
        path = root / folder / split / city / f"{stem}_{suffix}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, pixels)
