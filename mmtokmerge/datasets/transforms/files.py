"""Reading an image file whole, or saying in one sentence which file could not be read."""

from __future__ import annotations

from io import BytesIO

import mmcv
import mmengine.fileio as fileio
import numpy as np
from PIL import Image

from mmtokmerge.errors import InputError

PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112
"""EXIF's tag; from 5 on width and height are exchanged."""
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG file lacks its end or fails its check sums, without decoding it.

    cv2 fills what a cut-off JPEG lacks with grey and says nothing. Inside compressed JPEG data the
    bytes of the end marker cannot occur, so a whole file has one after its last scan marker, also
    where a thumbnail with an end of its own stands in front. A PNG carries a check sum per chunk.
    Other formats are left to their decoder.
    """
    if data.startswith(JPEG_START):
        return data.rfind(JPEG_END) <= data.rfind(JPEG_SCAN)
    if data.startswith(PNG_START):
        try:
            with Image.open(BytesIO(data)) as image:
                image.verify()
        except (OSError, SyntaxError):
            return True
    return False


def read_image(
    path: str, what: str, flag: str, backend: str, backend_args: dict | None = None
) -> np.ndarray:
    """The pixels of a file, ``(H, W)`` or ``(H, W, channels)``, as ``mmcv.imfrombytes`` gives them.

    Args:
        path: The file, local or of the file backend that ``backend_args`` names.
        what: What the file is to a reader of the error: ``"image"`` or ``"label"``.
        flag: ``"color"``, ``"grayscale"`` or ``"unchanged"``.
        backend: mmcv's decoding backend, such as ``"cv2"`` or ``"pillow"``.
        backend_args: Arguments of mmengine's file backend.

    Raises:
        InputError: The file is missing, empty, cut off or not an image.
    """
    try:
        data = fileio.get(path, backend_args=backend_args)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {what} {path}: {reason}") from error
    if not data:
        raise InputError(f"cannot read {what} {path}: the file is empty")
    if is_cut_off(data):
        raise InputError(f"cannot read {what} {path}: the file is cut off or damaged")
    try:
        pixels = mmcv.imfrombytes(data, flag=flag, backend=backend)
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read {what} {path}: {error}") from error
    if pixels is None:
        raise InputError(f"cannot read {what} {path}: it is not an image that {backend} decodes")
    return pixels


def image_size(path: str) -> tuple[int, int]:
    """Width and height of an image file as it is loaded, turned as its EXIF says, by its header.

    Raises:
        InputError: The file cannot be read, or is no image.
    """
    try:
        with fileio.get_local_path(path) as local, Image.open(local) as image:
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION, 1) >= 5
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read image {path}: {error}") from error
    return (height, width) if sideways else (width, height)
