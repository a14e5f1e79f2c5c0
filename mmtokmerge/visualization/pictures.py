"""Reading pictures of any depth as bytes, and writing them whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import mmengine.fileio as fileio
import numpy as np

from mmtokmerge.errors import UnreadableInput
from mmtokmerge.reporting.files import write_image


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write ``(H, W, 3)`` RGB or ``(H, W)`` gray, uint8 or uint16, in the format of the suffix.

    Raises:
        InputError: No picture format has this suffix, or the file cannot be written.
    """
    pixels = picture[..., ::-1] if picture.ndim == 3 else picture
    write_image(path, np.ascontiguousarray(pixels))


def read_shown(path: str, backend_args: Any = None) -> np.ndarray:
    """The picture ``(H, W, 3)`` RGB bytes that a sample was loaded from, to be drawn on.

    Raises:
        InputError: It is cut off or no picture.
    """
    content = np.frombuffer(fileio.get(path, backend_args=backend_args), dtype=np.uint8)
    return np.ascontiguousarray(decode_picture(content, path)[..., ::-1])


def decode_picture(content: np.ndarray, name: str) -> np.ndarray:
    """The bytes of a file as ``(H, W, 3)`` BGR bytes, turned as its EXIF data says.

    Gray becomes three equal channels, of more than three the first three are taken, and what is
    deeper than 8 bits, floats among them, is stretched from its least to its most.

    Raises:
        InputError: It is cut off or no picture.
    """
    picture = None
    # ANYDEPTH and COLOR turn by EXIF, which UNCHANGED does not, but know no floats of 4 channels.
    for flags in (cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED):
        try:
            picture = cv2.imdecode(content, flags) if content.size else None
        except cv2.error:
            continue
        if picture is not None:
            break
    if picture is None:
        raise UnreadableInput(f"{name} is cut off or no picture.")
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.shape[2] < 3:
        picture = picture[..., :1].repeat(3, axis=2)
    return to_bytes(picture[..., :3])


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` of any depth to uint8; deeper pixels are stretched from their least to most."""
    if picture.dtype == np.uint8:
        return picture
    values = picture.astype(np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(values, nan=low) - low) * (255.0 / max(high - low, 1e-6))
    return scaled.clip(0, 255).round().astype(np.uint8)
