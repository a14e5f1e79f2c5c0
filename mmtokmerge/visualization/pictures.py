"""Writing pictures, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mmtokmerge.errors import InputError
from mmtokmerge.reporting.files import write_bytes


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write ``(H, W, 3)`` RGB or ``(H, W)`` gray, uint8 or uint16, in the format of the suffix.

    Raises:
        InputError: No picture format has this suffix, or the file cannot be written.
    """
    path = Path(path)
    pixels = picture[..., ::-1] if picture.ndim == 3 else picture
    try:
        encoded, content = cv2.imencode(path.suffix, np.ascontiguousarray(pixels))
    except cv2.error:
        encoded, content = False, np.empty(0)
    if not encoded:
        raise InputError(f"{path} must end in a picture format's suffix, such as .png or .jpg.")
    write_bytes(path, content.tobytes())
