"""How many superpatches of an image hold a single class, over a data set (CTS, figure 2)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmtokmerge.analysis.similarity.labelled import labels_of
from mmtokmerge.analysis.similarity.pairs import resize_labels
from mmtokmerge.datasets.transforms.sharing_targets import sharing_targets
from mmtokmerge.errors import InputError
from mmtokmerge.measure.samples import Samples

QUANTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Grid:
    """How a label map is divided.

    Args:
        patch_size: Side of a patch in pixels.
        border: Superpatches of one class and ignored pixels count as mixed ('split') or not at all
            ('ignore').
        shape: ``(H, W)`` to which label maps are resized, None leaves them as the test's images.
        crop: ``(H, W)`` of the middle part that is taken afterwards, None takes all; a side that
            is shorter stays as it is.
    """

    patch_size: int = 16
    border: str = "split"
    shape: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None


@dataclass(frozen=True)
class ImageShare:
    """One image.

    Args:
        path: The path of the image's file.
        single: Superpatches that hold a single class, or ignored pixels alone.
        counted: Superpatches that lie wholly in the grid of patches and are not left out.
    """

    path: str
    single: int
    counted: int

    @property
    def percent(self) -> float:
        """Share of the counted superpatches that hold a single class."""
        return 100 * self.single / self.counted


def count_single(
    label: np.ndarray, patch_size: int, border: str = "split", ignore_index: int = 255
) -> tuple[int, int]:
    """Single-class superpatches of a label ``(H, W)``, and how many there are.

    Superpatches that lie half outside the grid of ``ceil(H / patch_size)`` rows of patches never
    share a token and are not counted.
    """
    rows, columns = (-(-side // patch_size) // 2 for side in label.shape)
    targets = sharing_targets(label, 2 * patch_size, border, ignore_index)[:rows, :columns]
    counted = targets != ignore_index
    return int((targets[counted] == 1).sum()), int(counted.sum())


def sharing_statistics(
    samples: Samples, grid: Grid, advance: Callable[[], None] = lambda: None
) -> list[ImageShare]:
    """Count over the labels of a data set, each at the size at which the test sees its image.

    Images without a superpatch that counts are left out.

    Args:
        samples: Labelled images.
        grid: How labels are divided.
        advance: Called after each image.

    Raises:
        InputError: If the images come without labels, or none has a superpatch that counts.
    """
    ignore_index = getattr(samples.dataset, "ignore_index", 255)
    shares = []
    for batch in samples:
        meta = batch["data_samples"][0].metainfo
        label = labels_of(batch, meta["img_shape"][:2])
        if grid.shape is not None:
            label = resize_labels(label, grid.shape)
        cut = label.numpy() if grid.crop is None else centre_crop(label.numpy(), grid.crop)
        single, counted = count_single(cut, grid.patch_size, grid.border, ignore_index)
        if counted:
            shares.append(ImageShare(str(meta.get("img_path", "")), single, counted))
        advance()
    if not shares:
        raise InputError(
            f"No image has a superpatch of {2 * grid.patch_size} x {2 * grid.patch_size} pixels "
            "that counts: take a smaller --patch-size or a larger --shape."
        )
    return shares


def centre_crop(label: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """The middle ``crop`` pixels of a label ``(H, W)``; a shorter side stays whole."""
    starts = [max(side - part, 0) // 2 for side, part in zip(label.shape, crop)]
    top, left = starts
    return label[top : top + crop[0], left : left + crop[1]]


def summarise(percents: Sequence[float]) -> dict[str, float]:
    """Mean, extremes and quantiles of the shares of images, in percent."""
    return {
        "mean": float(np.mean(percents)),
        "minimum": float(np.min(percents)),
        **{f"quantile {q} %": float(np.percentile(percents, q)) for q in QUANTILES},
        "maximum": float(np.max(percents)),
    }


def histogram(percents: Sequence[float], bins: int) -> list[tuple[float, float, int]]:
    """From, to, and how many images: ``bins`` equal parts of 0 to 100 %, the last with its end."""
    counts, edges = np.histogram(percents, bins=bins, range=(0, 100))
    return [(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts)]


def statistics_json(shares: Sequence[ImageShare], bins: int, grid: Grid) -> dict[str, Any]:
    """Everything as JSON values."""
    percents = [share.percent for share in shares]
    return {
        "images": len(shares),
        "patch_size": grid.patch_size,
        "border": grid.border,
        "shape": grid.shape,
        "crop": grid.crop,
        "percent": summarise(percents),
        "histogram": [
            dict(zip(("from", "to", "images"), part)) for part in histogram(percents, bins)
        ],
        "percent_by_image": percents,
    }


def statistics_rows(content: Mapping[str, Any]) -> list[list[str]]:
    """Summary and histogram of :func:`statistics_json` as lines of a table."""
    rows = [[name, f"{value:.1f}%"] for name, value in content["percent"].items()]
    return rows + [
        [f"images from {part['from']:g}% to {part['to']:g}%", str(part["images"])]
        for part in content["histogram"]
    ]


def read_percents(text: str) -> tuple[str, list[float]]:
    """Name and images' shares of ``NAME=JSON``, a file of :func:`statistics_json`.

    Raises:
        InputError: If it is something else.
    """
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise InputError(
            f"--overlay {text!r} must be NAME=JSON, such as ADE20K=ade20k/statistics.json."
        )
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--overlay {text}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"--overlay {text} is no JSON file.") from error
    percents = content.get("percent_by_image") if isinstance(content, dict) else None
    if not percents:
        raise InputError(f"--overlay {text} holds no percent_by_image of this command.")
    return name, percents
