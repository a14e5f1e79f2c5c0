"""The annotation tables of the Jumping Broadcast Dataset, read by the names of their columns."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmtokmerge.datasets.keypoints.coco_file import CocoFile
from mmtokmerge.datasets.keypoints.jumper import JUMPER_KEYPOINTS
from mmtokmerge.errors import InputError

DELIMITERS = ",;\t"
VISIBILITY = ("s", "v", "vis", "visible")
NAME_COLUMNS = ("file_name", "filename", "image", "image_name")


@dataclass
class Conversion:
    """What became of a table's rows.

    Args:
        file: The annotations, ready to be written.
        used: Rows with a visible athlete.
        without_athlete: Names of images that are left out, as no keypoint is visible.
        without_image: Names of images that are left out, as they do not exist.
    """

    file: CocoFile
    used: int
    without_athlete: list[str]
    without_image: list[str]


def convert_table(
    table: Path, images: Path, template: str | None, margin: float, skip_missing: bool = False
) -> Conversion:
    """Turn a table into COCO's format.

    Args:
        table: CSV with a header, separated by commas, semicolons or tabs. Each keypoint has the
            columns ``<name>_x`` and ``<name>_y`` in pixels and may have ``<name>_s`` (or ``_v``,
            ``_vis``, ``_visible``), 0 where it is not visible; so is one with an empty place.
        images: Folder of the images.
        template: Name of a row's image, in columns: ``"{event}_{frame_num:05d}.jpg"``. None takes
            the column ``file_name`` or ``image``.
        margin: The margin of the boxes around the keypoints.
        skip_missing: Leave rows without image out, instead of raising.

    Raises:
        InputError: The table cannot be read, lacks a column or a number, or an image is missing.
    """
    result = Conversion(CocoFile(), 0, [], [])
    for line, row in _read_rows(table):
        where = f"line {line} of {table}"
        name = _image_name(row, template, where)
        points, visible = _read_keypoints(row, where)
        if not visible.any():
            result.without_athlete.append(name)
            continue
        path = images / name
        if not path.is_file():
            if not skip_missing:
                raise InputError(f"image {path} does not exist, though {where} names it")
            result.without_image.append(name)
            continue
        size = _image_size(path)
        visible &= (points < size).all(axis=1)
        if not visible.any():
            result.without_athlete.append(name)
            continue
        result.file.add(name, size, np.where(visible[:, None], points, 0), visible.tolist(), margin)
        result.used += 1
    if result.used == 0:
        raise InputError(f"{table} has no row with a visible athlete and an image")
    return result


def _read_rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row with its line number, after a check of the header."""
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the table {table}: {error}") from error
    if not lines:
        raise InputError(f"the table {table} is empty")
    delimiter = max(DELIMITERS, key=lines[0].count)
    reader = csv.DictReader(lines, delimiter=delimiter)
    header = reader.fieldnames or []
    wanted = [f"{name}_{axis}" for name in JUMPER_KEYPOINTS for axis in "xy"]
    missing = [column for column in wanted if column not in header]
    if missing:
        raise InputError(
            f"the table {table} lacks {len(missing)} of {len(wanted)} columns for keypoints, such "
            f"as {missing[0]}; its header is {lines[0][:200]!r}"
        )
    for row in reader:
        yield reader.line_num, row


def _image_name(row: Mapping[str, str], template: str | None, where: str) -> str:
    if template is None:
        for column in NAME_COLUMNS:
            if row.get(column):
                return row[column]
        raise InputError(
            f"{where} names no image in a column {' or '.join(NAME_COLUMNS)}: give --image-name, "
            'such as "{event}_{frame_num:05d}.jpg"'
        )
    values = {
        key: int(value) if value.isascii() and value.isdigit() else value
        for key, value in row.items()
        if isinstance(key, str) and value is not None
    }
    try:
        return template.format(**values)
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"--image-name {template!r} does not fit {where}: {error} (columns without a keypoint: "
            f"{', '.join(k for k in values if k.rpartition('_')[0] not in JUMPER_KEYPOINTS)})"
        ) from error


def _read_keypoints(row: Mapping[str, str], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Points ``(K, 2)`` and which are visible ``(K,)``."""
    points = np.zeros((len(JUMPER_KEYPOINTS), 2))
    visible = np.zeros(len(JUMPER_KEYPOINTS), dtype=bool)
    for index, name in enumerate(JUMPER_KEYPOINTS):
        points[index] = [_number(row, f"{name}_{axis}", where) for axis in "xy"]
        flags = (f"{name}_{suffix}" for suffix in VISIBILITY)
        flag = next((column for column in flags if column in row), None)
        shown = flag is None or _number(row, flag, where) > 0
        place = points[index]
        visible[index] = shown and np.isfinite(place).all() and (place >= 0).all() and place.any()
    return np.where(visible[:, None], points, 0), visible


def _number(row: Mapping[str, str], column: str, where: str) -> float:
    text = (row[column] or "").strip()
    try:
        return float(text) if text else math.nan
    except ValueError as error:
        raise InputError(f"{where} has {column}={text!r}, which is not a number") from error


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"cannot read image {path}: {error}") from error
