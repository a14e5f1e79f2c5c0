"""Loading an image, or one sentence that names the file."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import LoadImageFromFile

from mmtokmerge.datasets.transforms.files import read_image
from mmtokmerge.errors import InputError
from mmtokmerge.registry import TRANSFORMS


def three_channels(image: np.ndarray, path: str | None) -> np.ndarray:
    """``(H, W, 3)`` of a gray ``(H, W)`` or ``(H, W, 1)`` image or one with transparency.

    Raises:
        InputError: It has another number of axes or channels.
    """
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)  # as OpenCV decodes a file of 16 bits in colour
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or not image.size or image.shape[2] not in (1, 3, 4):
        raise InputError(
            f"an image {path or 'given as an array'} is of shape {image.shape}, but must be "
            "(H, W) or (H, W, channels) with 1, 3 or 4 channels"
        )
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image[..., :3]


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that refuses a missing, cut-off or unreadable file.

    Adds ``img`` ``(H, W, 3)`` in BGR, ``img_shape`` and ``ori_shape`` ``(H, W)`` to the results. An
    ``img`` that the results hold already is taken as it is, as inference on arrays needs it.

    Args:
        to_float32: Give float32 pixels instead of uint8.
        color_type: mmcv's flag, ``"color"``, ``"grayscale"`` or ``"unchanged"``.
        imdecode_backend: mmcv's decoding backend.
        backend_args: Arguments of mmengine's file backend.

    Raises:
        InputError: When called, naming the file that could not be read.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str = "cv2",
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(
            to_float32=to_float32,
            color_type=color_type,
            imdecode_backend=imdecode_backend,
            backend_args=backend_args,
        )

    def transform(self, results: dict) -> dict:
        """Load ``results['img_path']``, unless there is an ``img``."""
        image = results.get("img")
        if image is None:
            path = results["img_path"]
            image = read_image(
                path, "image", self.color_type, self.imdecode_backend, self.backend_args
            )
        if self.color_type == "color":
            image = three_channels(image, results.get("img_path"))
        if self.to_float32:
            image = image.astype(np.float32)
        results["img"] = image
        results["img_shape"] = image.shape[:2]
        results["ori_shape"] = image.shape[:2]
        return results
