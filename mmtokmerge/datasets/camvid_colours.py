"""The colours of CamVid's 32-class release, its 11 common classes and SegNet's split."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from mmtokmerge.datasets.transforms.files import read_image
from mmtokmerge.errors import InputError
from mmtokmerge.reporting.files import write_image

# RGB as in the release's label_colors.txt; grouped as SegNet's 11-class labels are.
COLOURS = {
    "Sky": {"Sky": (128, 128, 128)},
    "Building": {
        "Building": (128, 0, 0),
        "Bridge": (0, 128, 64),
        "Wall": (64, 192, 0),
        "Tunnel": (64, 0, 64),
        "Archway": (192, 0, 128),
    },
    "Pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "Road": {
        "Road": (128, 64, 128),
        "LaneMkgsDriv": (128, 0, 192),
        "LaneMkgsNonDriv": (192, 0, 64),
    },
    "Pavement": {
        "Sidewalk": (0, 0, 192),
        "ParkingBlock": (64, 192, 128),
        "RoadShoulder": (128, 128, 192),
    },
    "Tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "SignSymbol": {
        "SignSymbol": (192, 128, 128),
        "Misc_Text": (128, 128, 64),
        "TrafficLight": (0, 64, 64),
    },
    "Fence": {"Fence": (64, 64, 128)},
    "Car": {
        "Car": (64, 0, 128),
        "SUVPickupTruck": (64, 128, 192),
        "Truck_Bus": (192, 128, 192),
        "Train": (192, 64, 128),
        "OtherMoving": (128, 64, 64),
    },
    "Pedestrian": {
        "Pedestrian": (64, 64, 0),
        "Child": (192, 128, 64),
        "CartLuggagePram": (64, 0, 192),
        "Animal": (64, 128, 64),
    },
    "Bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
}
VOID_COLOUR = (0, 0, 0)
IGNORE, UNKNOWN = 255, 254
RGB_CODE = np.array([1 << 16, 1 << 8, 1], dtype=np.int32)


@cache
def _ids_of_codes() -> np.ndarray:
    """The id of each RGB code, ``(2 ** 24,)`` uint8; :data:`UNKNOWN` where the release has none."""
    ids = np.full(1 << 24, UNKNOWN, dtype=np.uint8)
    for index, members in enumerate(COLOURS.values()):
        ids[[np.dot(colour, RGB_CODE) for colour in members.values()]] = index
    ids[np.dot(VOID_COLOUR, RGB_CODE)] = IGNORE
    return ids


def read_colour_label(path: Path) -> np.ndarray:
    """Ids 0 to 10, or 255 for void, of a colour label of the release, ``(H, W)`` uint8.

    Raises:
        InputError: The file cannot be read, or holds a colour that is none of the 32.
    """
    bgr = read_image(str(path), "label", "color", "cv2")
    codes = bgr[..., ::-1].astype(np.int32) @ RGB_CODE  # (H, W)
    ids = _ids_of_codes()[codes]
    unknown = ids == UNKNOWN
    if unknown.any():
        code = int(codes[unknown][0])
        colour = (code >> 16, code >> 8 & 255, code & 255)
        raise InputError(
            f"label {path} holds the colour {colour} (RGB) in {int((codes == code).sum())} pixels, "
            "but CamVid's release has no such class: is it a *_L.png of LabeledApproved_full?"
        )
    return ids


def segnet_split(stem: str) -> str:
    """``"train"``, ``"val"`` or ``"test"`` for a frame such as ``0016E5_07959``.

    SegNet's lists have 367, 101 and 233 frames: 7959 to 8159 of drive 0016E5 are for validation,
    0001TP from 8550 on and all of Seq05VD for testing.

    Raises:
        InputError: The name is not one of the release's.
    """
    match = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", stem)
    if match is None:
        raise InputError(
            f"{stem!r} is no frame of CamVid: names look like 0001TP_006690 or Seq05VD_f00000"
        )
    drive, frame = match[1], int(match[2])
    if drive == "Seq05VD" or (drive == "0001TP" and frame >= 8550):
        return "test"
    return "val" if drive == "0016E5" and 7959 <= frame <= 8159 else "train"


def convert_frame(image: Path, label: Path, out: Path, size: tuple[int, int]) -> None:
    """Write one frame below ``out`` as ``images/SPLIT/*.jpg`` and ``annotations/SPLIT/*.png``.

    Args:
        image: A file of ``701_StillsRaw_full``.
        label: The image's colour label.
        out: The root of the new layout.
        size: Width and height in pixels; labels take the nearest pixel, images the mean.

    Raises:
        InputError: A file cannot be read, has unknown colours or a name unknown to CamVid.
    """
    split = segnet_split(image.stem)
    pixels = read_image(str(image), "image", "color", "cv2")
    ids = read_colour_label(label)
    if pixels.shape[:2] != ids.shape:
        raise InputError(
            f"label {label} is {ids.shape[1]}x{ids.shape[0]} pixels (width x height), but its "
            f"image {image} is {pixels.shape[1]}x{pixels.shape[0]}"
        )
    _write(
        out / "images" / split / f"{image.stem}.jpg",
        cv2.resize(pixels, size, interpolation=cv2.INTER_AREA),
        [cv2.IMWRITE_JPEG_QUALITY, 95],
    )
    _write(
        out / "annotations" / split / f"{image.stem}.png",
        cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST),
    )


def _write(path: Path, pixels: np.ndarray, options: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels, options or [])
